// Tests the flip kernels, run on the host by csrc/cuda/host_shim.hpp: they make the flips of
// csrc/core exactly, the log undoes them, and no other memory is written.
#include <cstdint>
#include <random>
#include <string>
#include <vector>

#include "../cuda/flips.cu"
#include "check.hpp"
#include "cuda_flip_cases.hpp"

using namespace proact;
using namespace proact::test;

namespace {

constexpr cuda::Stream here{0, 0};
constexpr double bers[] = {0.0, 1e-6, 1e-4, 3e-3, 0.1, 0.37, 0.5, 0.51, 0.8, 0.995, 0.999999, 1.0};

FaultStream fault_for(const TensorMemory& memory) {
    return {0xfeedfacecafebeefu, 7, memory.stream};
}

std::uint64_t total_flips = 0, repeated_words = 0;

void check_counts(GuardedBytes& counts, const Expected& expected) {
    CHECK(counts.guards_are_whole());
    for (std::size_t block = 0; block < expected.blocks.size(); ++block) {
        const auto count = counts.at<std::uint32_t>(4 * block);
        CHECK_EQUAL(std::size_t{count}, expected.blocks[block].size());
        total_flips += count;
    }
}

void check_log(const TensorMemory& memory, const cuda::LogLayout& layout, GuardedBytes& log,
               const Expected& expected) {
    CHECK(log.guards_are_whole());
    bool same = layout.blocks == expected.blocks.size();
    for (std::uint64_t block = 0; same && block < layout.blocks; ++block) {
        const std::vector<ExpectedFlip>& flips = expected.blocks[block];
        CHECK(flips.size() <= layout.slots);
        for (std::size_t i = 0; same && i < flips.size(); ++i) {
            const std::uint64_t place = block * layout.slots + i;
            std::uint64_t before = 0;
            std::memcpy(&before, log.data() + layout.before + place * memory.word_bytes,
                        memory.word_bytes);
            same = log.at<std::uint32_t>(layout.element + 4 * place) == flips[i].element &&
                   log.at<std::uint8_t>(layout.bit + place) == flips[i].bit &&
                   before == flips[i].before;
            if (i > 0 && flips[i].element == flips[i - 1].element) ++repeated_words;
        }
    }
    CHECK(same);
}

void flip_and_restore(Tensor& tensor, double ber) {
    const TensorMemory& memory = tensor.memory;
    context = shown(memory.word_bytes) + " bytes, " + shown(memory.words) + " words, mask " +
              shown(memory.mask) + ", stored bits " + shown(memory.stored_bits()) + ", ber " +
              shown(ber);
    BlockLaws laws(ber);
    const BlockLaw law = laws.of(memory);
    const FaultStream fault = fault_for(memory);
    const Expected expected = expected_flips(memory, law, fault, tensor.clean);
    const cuda::LogLayout layout = cuda::log_layout(memory, law);
    CHECK_EQUAL(cuda::block_count(memory, law), std::uint64_t{expected.blocks.size()});
    CHECK_EQUAL(cuda::log_bytes(memory, law), layout.bytes);

    GuardedBytes log(layout.bytes), counts(4 * layout.blocks), unlogged_counts(4 * layout.blocks);
    cuda::flip(memory, law, fault, log.address(), counts.address(), here);
    CHECK(tensor.now() == expected.words);
    CHECK(tensor.bytes.guards_are_whole());
    check_log(memory, layout, log, expected);
    check_counts(counts, expected);

    // Restoring must work even if a flipped word has been repaired or changed in the meantime.
    for (const auto& block : expected.blocks)
        for (const ExpectedFlip& flip : block)
            tensor.bytes.set_word(flip.element, memory.word_bytes, 0x5555555555555555u);
    cuda::restore(memory, law, log.address(), counts.address(), here);
    CHECK(tensor.now() == tensor.clean);
    CHECK(tensor.bytes.guards_are_whole());

    cuda::flip(memory, law, fault, 0, unlogged_counts.address(), here);
    CHECK(tensor.now() == expected.words);
    check_counts(unlogged_counts, expected);
    for (std::uint64_t i = 0; i < memory.words; ++i)
        tensor.bytes.set_word(i, memory.word_bytes, tensor.clean[i]);
    context.clear();
}

/// The word counts include a partial last block and a block with a single word.
void flips_are_those_of_the_core() {
    for (const std::uint32_t bytes : {1u, 2u, 4u, 8u}) {
        const std::uint64_t full = ~std::uint64_t{0} >> (64 - 8 * bytes);
        const std::uint64_t masks[] = {full, full & 0x9696969696969696u, std::uint64_t{1},
                                       std::uint64_t{1} << (8 * bytes - 1)};
        for (const std::uint64_t mask : masks)
            for (const std::uint64_t words : {1u, 2u, 129u, 1003u}) {
                Tensor tensor(bytes, words, mask);
                for (const double ber : bers) flip_and_restore(tensor, ber);
            }
    }
}

void fixed_point_words_flip_as_stored() {
    for (const FixedPoint fixed : {FixedPoint{32, 16}, FixedPoint{32, 0}, FixedPoint{9, 4}})
        for (const std::uint32_t bytes : {4u, 8u}) {
            const std::uint64_t full = fixed.word_mask();
            for (const std::uint64_t mask : {full, full & 0x0f5u})
                for (const std::uint64_t words : {1u, 321u}) {
                    Tensor tensor(bytes, words, mask, fixed);
                    for (const double ber : bers) flip_and_restore(tensor, ber);
                }
        }
}

void large_tensors() {
    Tensor tensor(4, 300001, 0xffffffffu);
    for (const double ber : {1e-6, 1e-3}) flip_and_restore(tensor, ber);
    Tensor bytes(1, 300001, 0xffu);
    flip_and_restore(bytes, 0.9999);
}

void counts_are_added_to_the_total() {
    std::mt19937 random(1);
    for (const std::uint64_t blocks : {1u, 31u, 32u, 513u, 40001u}) {
        GuardedBytes counts(4 * blocks), total(8);
        std::uint64_t sum = std::uint64_t{1} << 40;  // contribution of earlier tensors
        total.set_word(0, 8, sum);
        for (std::uint64_t i = 0; i < blocks; ++i) {
            const auto count = static_cast<std::uint32_t>(random());
            counts.set_word(i, 4, count);
            sum += count;
        }
        cuda::add_counts(counts.address(), blocks, total.address(), here);
        CHECK_EQUAL(total.word(0, 8), sum);
        CHECK(total.guards_are_whole());
    }
}

void invalid_arguments_are_rejected_and_change_nothing() {
    Tensor tensor(4, 100, 0xffffffffu);
    const TensorMemory& memory = tensor.memory;
    BlockLaws laws(0.1);
    const BlockLaw law = laws.of(memory);
    const FaultStream fault = fault_for(memory);
    GuardedBytes log(cuda::log_bytes(memory, law)), counts(4 * cuda::block_count(memory, law));
    const auto flip = [&](const TensorMemory& changed, std::uintptr_t log_at,
                          std::uintptr_t counts_at) {
        cuda::flip(changed, law, fault, log_at, counts_at, here);
    };
    TensorMemory bad = memory;
    bad.address += 2;
    CHECK_THROWS(std::invalid_argument, flip(bad, 0, counts.address()));
    bad = memory;
    bad.mask = 0xff;
    CHECK_THROWS(std::invalid_argument, flip(bad, 0, counts.address()));
    bad = memory;
    bad.word_bytes = 3;
    CHECK_THROWS(std::invalid_argument, flip(bad, 0, counts.address()));
    CHECK_THROWS(std::invalid_argument, flip(memory, 0, 0));
    CHECK_THROWS(std::invalid_argument, flip(memory, log.address() + 4, counts.address()));
    CHECK_THROWS(std::invalid_argument, cuda::restore(memory, law, 0, counts.address(), here));
    CHECK(tensor.now() == tensor.clean);

    bad = memory;
    bad.words = 0;
    flip(bad, 0, 0);
    cuda::restore(bad, law, 0, 0, here);
    cuda::add_counts(0, 0, 0, here);
    CHECK(tensor.now() == tensor.clean);

    CHECK_THROWS(std::runtime_error,
                 cuda::check_size(cuda::grid_over(std::uint64_t{1} << 40, 128), "a test"));
    cuda::check_size(cuda::grid_over((std::uint64_t{1} << 31) * 128 - 128, 128), "a test");
}

}  // namespace

int main() {
    flips_are_those_of_the_core();
    fixed_point_words_flip_as_stored();
    large_tensors();
    counts_are_added_to_the_total();
    invalid_arguments_are_rejected_and_change_nothing();
    CHECK(total_flips > 1000000);
    CHECK(repeated_words > 1000);
    return summary();
}
