// Tests the flip kernels, run on the host by csrc/cuda/host_shim.hpp: they make the flips of
// csrc/core exactly, the log undoes them, and no other memory is written.
#include <cstdint>
#include <random>
#include <string>
#include <vector>

#include "../cuda/flip_rate.cpp"
#include "../cuda/flips.cu"
#include "check.hpp"
#include "cuda_flip_cases.hpp"

using namespace proact;
using namespace proact::test;

namespace {

constexpr cuda::Stream here{0, 0};
constexpr FaultPattern pattern{0xfeedfacecafebeefu, 7};
constexpr double bers[] = {1e-6, 1e-4, 3e-3, 0.1, 0.37, 0.5, 0.51, 0.8, 0.995, 0.999999, 1.0};

std::uint64_t total_flips = 0, repeated_words = 0;

template <class Item>
std::uintptr_t address_of(const std::vector<Item>& items) {
    return reinterpret_cast<std::uintptr_t>(items.data());
}

/// A plan of one tensor at one rate, with the memory of a trial.
struct Trial {
    Trial(const TensorMemory& memory, double ber, bool is_logged)
        : rate((plan.add(memory), plan.rate(ber))),
          bytes(rate.bytes(is_logged)),
          memory{address_of(rate.tables()), bytes.address(), is_logged} {
        std::memset(bytes.data(), 0, rate.bytes_to_clear());
    }
    std::uintptr_t tensors() const { return address_of(plan.described()); }
    void flip() { cuda::flip(tensors(), rate, pattern, memory, here); }
    void restore() { cuda::restore(tensors(), rate, memory, here); }

    cuda::DevicePlan plan;
    cuda::FlipRate rate;
    GuardedBytes bytes;
    cuda::TrialMemory memory;
};

void check_counts(Trial& trial, const Expected& expected) {
    CHECK(trial.bytes.guards_are_whole());
    const cuda::DeviceLaw& law = trial.rate.laws()[0];
    CHECK_EQUAL(law.blocks, std::uint64_t{expected.blocks.size()});
    std::uint64_t total = 0;
    for (std::size_t block = 0; block < expected.blocks.size(); ++block) {
        const auto count = trial.bytes.at<std::uint32_t>(law.counts + 4 * block);
        CHECK_EQUAL(std::size_t{count}, expected.blocks[block].size());
        total += count;
    }
    CHECK_EQUAL(trial.plan.flips(trial.rate, pattern), total);
    total_flips += total;
}

void check_log(const TensorMemory& memory, Trial& trial, const Expected& expected) {
    const cuda::DeviceLaw& law = trial.rate.laws()[0];
    bool same = true;
    for (std::uint64_t block = 0; same && block < law.blocks; ++block) {
        const std::vector<ExpectedFlip>& flips = expected.blocks[block];
        CHECK(flips.size() <= law.slots);
        for (std::size_t i = 0; same && i < flips.size(); ++i) {
            const std::uint64_t place = block * law.slots + i;
            std::uint64_t before = 0;
            std::memcpy(&before, trial.bytes.data() + law.before + place * memory.word_bytes,
                        memory.word_bytes);
            same = trial.bytes.at<std::uint32_t>(law.element + 4 * place) == flips[i].element &&
                   trial.bytes.at<std::uint8_t>(law.bit + place) == flips[i].bit &&
                   before == flips[i].before;
            if (i > 0 && flips[i].element == flips[i - 1].element) ++repeated_words;
        }
    }
    CHECK(same);
}

void flip_and_restore(Tensor& tensor, double ber) {
    const TensorMemory& memory = tensor.memory;
    context = shown(memory.word_bytes) + " bytes, " + shown(memory.words) + " words, mask " +
              shown(memory.mask) + ", format " + std::to_string(memory.format.index()) + ", ber " +
              shown(ber);
    BlockLaws laws(ber);
    const FaultStream fault{pattern.seed, pattern.trial, memory.stream};
    const Expected expected = expected_flips(memory, laws.of(memory), fault, tensor.clean);

    Trial logged(memory, ber, true);
    logged.restore();  // flips that were not made are not undone
    CHECK(tensor.now() == tensor.clean);
    logged.flip();
    CHECK(tensor.now() == expected.words);
    CHECK(tensor.bytes.guards_are_whole());
    check_log(memory, logged, expected);
    check_counts(logged, expected);

    // Restoring must work even if a flipped word has been repaired or changed in the meantime.
    for (const auto& block : expected.blocks)
        for (const ExpectedFlip& flip : block)
            tensor.bytes.set_word(flip.element, memory.word_bytes, 0x5555555555555555u);
    logged.restore();
    CHECK(tensor.now() == tensor.clean);
    CHECK(tensor.bytes.guards_are_whole());

    std::size_t flips = 0;
    for (const auto& block : expected.blocks) flips += block.size();
    CHECK_EQUAL(logged.plan.hit(logged.rate, pattern).size(), std::size_t{flips != 0});

    Trial counted(memory, ber, false);
    counted.flip();
    CHECK(tensor.now() == expected.words);
    check_counts(counted, expected);
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

/// Formats that memory represents as floats of 4 or 8 bytes, or of both.
void encoded_words_flip_as_stored() {
    static const std::vector<float> scales = {0.5f, 1e-3f, 80.0f, 3.0f};
    static const std::vector<std::int32_t> zeros = {0, 3, -2, 1};
    const Scales blocks{address_of(scales), 4, 321, 100, 0};
    const SmallFloat e4m3{4, 3, 7, false, true}, e5m2{5, 2, 15, true, true};
    const struct {
        NumberFormat format;
        bool in_floats, in_doubles;
    } cases[] = {
        {FixedPoint{32, 16}, true, true},
        {FixedPoint{32, 0}, true, true},
        {FixedPoint{9, 4}, true, true},
        {ScaledIntegers{8, blocks}, true, true},
        {ScaledIntegers{4, blocks, false, address_of(zeros)}, true, true},
        {ScaledFloats{e4m3, blocks}, true, true},
        {StoredHalf<Float16>{}, true, false},
        {StoredHalf<BFloat16>{}, true, false},
        {StoredFloat{}, false, true},
        {e4m3, true, true},
        {e5m2, true, true},
    };
    for (const auto& each : cases)
        for (const std::uint32_t bytes : {4u, 8u}) {
            if (!(bytes == 4 ? each.in_floats : each.in_doubles)) continue;
            const TensorMemory described{8, 1, bytes, 1, 1, each.format};
            const std::uint64_t full = (std::uint64_t{1} << described.stored_bits()) - 1;
            for (const std::uint64_t mask : {full, full & 0x0f5u})
                for (const std::uint64_t words : {1u, 321u}) {
                    Tensor tensor(bytes, words, mask, each.format);
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

void invalid_plans_are_rejected() {
    Tensor tensor(4, 100, 0xffffffffu);
    const auto rejects = [](TensorMemory memory) {
        cuda::DevicePlan plan;
        CHECK_THROWS(std::invalid_argument, plan.add(memory));
        CHECK_EQUAL(plan.size(), 0u);
    };
    TensorMemory bad = tensor.memory;
    bad.address += 2;
    rejects(bad);
    bad = tensor.memory;
    bad.address = 0;
    rejects(bad);
    bad = tensor.memory;
    bad.word_bytes = 3;
    rejects(bad);
    bad = tensor.memory;
    bad.format = Unread{32};
    rejects(bad);

    cuda::DevicePlan plan;
    plan.add(tensor.memory);
    TensorMemory last_word = tensor.memory;
    last_word.address += 4 * 99;
    last_word.words = 1;
    CHECK_THROWS(std::invalid_argument, plan.add(last_word));
    last_word.address += 4;  // the memory behind the tensor
    plan.add(last_word);
    for (const double ber : {0.0, -0.1, 1.1})
        CHECK_THROWS(std::invalid_argument, static_cast<void>(plan.rate(ber)));

    CHECK_THROWS(cuda::Failure,
                 cuda::check_size(cuda::grid_over(std::uint64_t{1} << 40, 128), "a test"));
    cuda::check_size(cuda::grid_over((std::uint64_t{1} << 31) * 128 - 128, 128), "a test");
}

}  // namespace

int main() {
    flips_are_those_of_the_core();
    encoded_words_flip_as_stored();
    large_tensors();
    invalid_plans_are_rejected();
    CHECK(total_flips > 1000000);
    CHECK(repeated_words > 1000);
    return summary();
}
