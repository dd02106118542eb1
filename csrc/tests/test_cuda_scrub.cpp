// Tests that the kernels for codewords, run on the host by csrc/cuda/host_shim.hpp, change memory
// as the loops of the host do.
#include <cstdint>
#include <vector>

#include "../cuda/scrub.cu"
#include "scrub_cases.hpp"

using namespace proact;
using namespace proact::test;

namespace {

constexpr cuda::Stream here{0, 0};

std::uintptr_t address_of(const void* pointer) { return reinterpret_cast<std::uintptr_t>(pointer); }

/// Random words, between words that must stay. `word_bytes` aligns the codewords.
std::vector<std::uint64_t> random_memory(std::size_t bytes, unsigned seed_of_words) {
    std::vector<std::uint64_t> memory(bytes / 8 + 3);
    std::mt19937_64 random(seed_of_words);
    for (std::uint64_t& word : memory) word = random();
    return memory;
}

void encodes_as_the_host(const SmallCode& code, std::uint32_t word_bytes) {
    for (const std::size_t codewords : {0u, 1u, 255u, 256u, 1000u}) {
        std::vector<std::uint64_t> device = random_memory(codewords * code.bytes + word_bytes, 1);
        std::vector<std::uint64_t> host = device;
        const auto native = code.native();
        cuda::encode_codewords({address_of(device.data()) + word_bytes, codewords, word_bytes},
                               native->tables(), here);
        encode_codewords(*native, reinterpret_cast<unsigned char*>(host.data()) + word_bytes,
                         codewords, 1);
        CHECK(device == host);
    }
}

void scrubs_as_the_host(const SmallCode& code, std::uint32_t word_bytes) {
    constexpr std::size_t codewords = 1001;
    std::vector<std::uint64_t> device = random_memory(codewords * code.bytes + word_bytes, 2);
    const auto native = code.native();
    auto* bytes = reinterpret_cast<unsigned char*>(device.data()) + word_bytes;
    encode_codewords(*native, bytes, codewords, 1);
    std::mt19937_64 random(3);
    for (std::size_t i = 0; i < codewords * code.bytes; i += 1 + random() % 9)
        bytes[i] = static_cast<unsigned char>(bytes[i] ^ (1u << random() % 8 | 1u << random() % 8));
    std::vector<std::uint64_t> host = device;
    // Bounds of float16 words give replacements that differ by channel.
    const std::vector<float> bounds = {0.5f, -0.25f, 3};
    std::vector<std::uint16_t> replacements;
    for (const float bound : bounds) replacements.push_back(Arithmetic<Float16>::store(bound).word);
    const bool has_bounds = word_bytes == 2;
    const std::vector<std::uint64_t> zero(1);
    unsigned long long counts[2] = {5, 7};
    cuda::scrub_codewords(
        {address_of(bytes), codewords, word_bytes}, native->tables(),
        has_bounds ? cuda::DeviceReplacements{address_of(replacements.data()), 4, bounds.size(), 5}
                   : cuda::DeviceReplacements{address_of(zero.data()), 4, 1, 1},
        address_of(counts), here);
    CodedMemory memory{address_of(host.data()) + word_bytes, codewords, native, word_bytes, 4, {}};
    if (has_bounds)
        memory.replacement = {address_of(bounds.data()),
                              address_of(bounds.data()),
                              Dtype::float32,
                              Dtype::float16,
                              bounds.size(),
                              5};
    ScrubPlan plan;
    plan.add(memory);
    const ScrubCounts expected = plan.scrub(nullptr, Isa::baseline, 1)[0];
    CHECK(expected.corrected > 0 && expected.detected > 0);
    CHECK_EQUAL(std::uint64_t{counts[0]}, expected.corrected + 5);
    CHECK_EQUAL(std::uint64_t{counts[1]}, expected.detected + 7);
    CHECK(device == host);
}

}  // namespace

int main() {
    for (const SmallCode& code : small_codes())
        for (const std::uint32_t word_bytes : {1u, 2u, 4u, 8u})
            if (code.bytes % word_bytes == 0) {
                encodes_as_the_host(code, word_bytes);
                scrubs_as_the_host(code, word_bytes);
            }
    return summary();
}
