// Tests that the kernels for codewords, run on the host by csrc/cuda/host_shim.hpp, change memory
// as the loops of the host do, and that the log of a sweep undoes exactly that.
#include <cstdint>
#include <list>
#include <vector>

#include "../cuda/scrub.cu"
#include "../cuda/sweep.cu"
#include "device_sweep_log.hpp"
#include "scrub_cases.hpp"

using namespace proact;
using namespace proact::test;

namespace {

/// Made by the first call: on a GPU, memory of CUDA must not be allocated before main.
const std::vector<float>& bounds() {
    static const std::vector<float> all = {0.5f, -0.25f, 3};
    return all;
}

/// Codewords between guard bytes, at an offset that is a multiple of the word size.
struct Codewords {
    SmallCode code;
    std::shared_ptr<const ScrubCode> native;
    std::size_t codewords;
    std::uint32_t word_bytes;
    std::size_t offset;
    std::vector<std::uint64_t> memory;

    Codewords(const SmallCode& small, std::size_t count, std::uint32_t bytes_of_word,
              std::size_t words_before)
        : code(small),
          native(small.native()),
          codewords(count),
          word_bytes(bytes_of_word),
          offset(16 + words_before * bytes_of_word),
          memory((offset + count * small.bytes) / 8 + 4) {
        std::mt19937_64 random(count * 8 + small.bytes);
        for (std::uint64_t& word : memory) word = random();
    }

    unsigned char* bytes() { return reinterpret_cast<unsigned char*>(memory.data()) + offset; }
    std::size_t size() const { return codewords * code.bytes; }

    void write_codewords() { encode_codewords(*native, bytes(), codewords, 1); }
    void make_errors(unsigned step, unsigned seed_of_errors) {
        std::mt19937_64 random(seed_of_errors);
        for (std::size_t i = 0; i < size(); i += 1 + random() % step) {
            const unsigned errors = 1u << random() % 8 | 1u << random() % 8;
            bytes()[i] = static_cast<unsigned char>(bytes()[i] ^ errors);
        }
    }
    /// Words of 2 and 4 bytes are floats whose replacements differ by channel; the others become 0.
    Replacement replacement() const {
        if (word_bytes != 2 && word_bytes != 4) return {};
        return {address_of(bounds()), address_of(bounds()),
                Dtype::float32,       word_bytes == 2 ? Dtype::float16 : Dtype::float32,
                bounds().size(),      5};
    }
    void add_to(cuda::DeviceScrubPlan& plan) {
        plan.add(reinterpret_cast<std::uintptr_t>(bytes()), codewords, native->tables(), word_bytes,
                 4, replacement());
    }
    void add_to(ScrubPlan& plan) {
        plan.add({reinterpret_cast<std::uintptr_t>(bytes()), codewords, native, word_bytes, 4,
                  replacement()});
    }
};

void scrub(const cuda::DeviceScrubPlan& plan, const SweepMemory& memory) {
    const std::vector<unsigned char> description = plan.described();
    plan.sweep(address_of(description), memory.log(), here);
}

void encodes_as_the_host(const SmallCode& code, std::uint32_t word_bytes) {
    for (const std::size_t codewords : {0u, 1u, 2u, 255u, 256u, 1000u})
        for (const std::size_t words_before : {0u, 1u}) {
            Codewords device(code, codewords, word_bytes, words_before), host = device;
            cuda::DeviceScrubPlan plan;
            device.add_to(plan);
            const std::vector<unsigned char> description = plan.described();
            plan.encode(address_of(description), here);
            host.write_codewords();
            CHECK(device.memory == host.memory);
        }
}

void scrubs_as_the_host(const SmallCode& code, std::uint32_t word_bytes) {
    for (const std::size_t codewords : {1u, 33u, 1001u, 5003u})
        for (const std::size_t words_before : {0u, 1u}) {
            Codewords device(code, codewords, word_bytes, words_before);
            device.write_codewords();
            const std::vector<std::uint64_t> valid = device.memory;
            cuda::DeviceScrubPlan plan;
            device.add_to(plan);
            SweepMemory clean(plan, plan.memories().groups());
            scrub(plan, clean);
            CHECK(device.memory == valid && clean.wanted() == 0);

            device.make_errors(9, 3);
            const std::vector<std::uint64_t> before = device.memory;
            Codewords host = device;
            ScrubPlan host_plan;
            host.add_to(host_plan);
            const ScrubCounts expected = host_plan.scrub(nullptr, Isa::baseline, 1)[0];
            if (codewords > 1000) CHECK(expected.corrected > 0 && expected.detected > 0);

            SweepMemory memory(plan, plan.memories().groups());
            scrub(plan, memory);
            CHECK(device.memory == host.memory && memory.guards_hold());
            CHECK_EQUAL(memory.count(0), expected.corrected);
            CHECK_EQUAL(memory.count(1), expected.detected);
            restore_after(plan, memory, memory.wanted());
            CHECK(device.memory == before);

            SweepMemory unlogged(plan, 0);
            scrub(plan, unlogged);
            CHECK(device.memory == host.memory && unlogged.guards_hold());
            CHECK_EQUAL(unlogged.count(0), expected.corrected);
            CHECK_EQUAL(unlogged.count(1), expected.detected);
        }
}

/// Codewords of all codes, some without any, in one launch; then with a log that is too small.
void one_launch_scrubs_all_codes() {
    std::list<Codewords> device, host;
    std::size_t number = 0;
    for (const SmallCode& code : small_codes())
        for (const std::size_t codewords : {0u, 700u, 37u}) {
            const std::uint32_t word_bytes = number++ % 2 == 0 ? code.bytes : 1;
            device.emplace_back(code, codewords, word_bytes, 1);
            device.back().write_codewords();
            device.back().make_errors(40, 4);
            host.push_back(device.back());
        }
    const std::list<Codewords> before = device;
    cuda::DeviceScrubPlan plan;
    for (Codewords& each : device) each.add_to(plan);
    ScrubPlan host_plan;
    for (Codewords& each : host) each.add_to(host_plan);
    const std::vector<ScrubCounts> expected = host_plan.scrub(nullptr, Isa::baseline, 1);
    const auto equal = [&](const std::list<Codewords>& others) {
        auto other = others.begin();
        for (const Codewords& each : device)
            if (each.memory != (other++)->memory) return false;
        return true;
    };

    SweepMemory small(plan, 20);
    scrub(plan, small);
    CHECK(small.wanted() > 20 && small.guards_hold() && !equal(before) && !equal(host));
    restore_after(plan, small, 20);
    CHECK(equal(before));

    SweepMemory enough(plan, small.wanted());
    scrub(plan, enough);
    CHECK(equal(host) && enough.guards_hold());
    CHECK_EQUAL(enough.wanted(), small.wanted());
    for (std::size_t i = 0; i < expected.size(); ++i) {
        CHECK_EQUAL(enough.count(2 * i), expected[i].corrected);
        CHECK_EQUAL(enough.count(2 * i + 1), expected[i].detected);
    }
    restore_after(plan, enough, enough.wanted());
    CHECK(equal(before));
}

void arguments_are_checked() {
    const SmallCode small(4, 7, false);
    const auto native = small.native();
    const std::vector<std::uint32_t> words(4);
    const std::uintptr_t address = address_of(words);
    cuda::DeviceScrubPlan plan;
    const CodeTables code = native->tables();
    CHECK_THROWS(std::invalid_argument, plan.add(address, 4, code, 3, 0, {}));
    CHECK_THROWS(std::invalid_argument, plan.add(address + 1, 4, code, 4, 0, {}));
    CHECK_THROWS(std::invalid_argument, plan.add(0, 4, code, 4, 0, {}));
    Replacement replacement;
    replacement.inner = 0;
    CHECK_THROWS(std::invalid_argument, plan.add(address, 4, code, 4, 0, replacement));
    replacement = {address, address + 2};
    CHECK_THROWS(std::invalid_argument, plan.add(address, 4, code, 4, 0, replacement));
    CHECK_EQUAL(plan.memories().groups(), std::uint64_t{0});
}

}  // namespace

int main() {
    for (const SmallCode& code : small_codes())
        for (const std::uint32_t word_bytes : {1u, 2u, 4u, 8u})
            if (code.bytes % word_bytes == 0) {
                context = "codewords of bytes " + shown(code.bytes) + ", check bits " +
                          shown(code.check_bits) + ", words of bytes " + shown(word_bytes);
                encodes_as_the_host(code, word_bytes);
                scrubs_as_the_host(code, word_bytes);
            }
    context.clear();
    one_launch_scrubs_all_codes();
    arguments_are_checked();
    return summary();
}
