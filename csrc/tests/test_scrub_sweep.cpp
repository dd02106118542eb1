// Tests that a sweep corrects invalid codewords by definition and changes nothing else.
#include <cstdint>
#include <vector>

#include "scrub_cases.hpp"

using namespace proact;
using namespace proact::test;

namespace {

/// Sweeps a copy, compares every byte with the definition, and restores it. `before` has `offset`
/// bytes on both sides of the codewords.
void matches(const std::vector<unsigned char>& before, std::size_t codewords, std::size_t offset,
             const SmallCode& code, Isa isa) {
    std::vector<unsigned char> bytes = before, expected = before;
    ScrubCounts counts;
    for (std::size_t i = 0; i < codewords; ++i) {
        const std::size_t at = offset + i * code.bytes;
        const std::uint64_t word = codeword_at(before, at, code.bytes);
        const std::uint32_t syndrome = code.syndrome(word);
        if (syndrome == 0) continue;
        std::uint64_t result = word;
        for (std::uint32_t place = 0; place < code.columns.size(); ++place)
            if (code.columns[place] == syndrome) result = word ^ std::uint64_t{1} << place;
        if (result == word)
            result = 0, ++counts.detected;  // cleared, or replaced by 0
        else
            ++counts.corrected;
        put_codeword(expected, at, code.bytes, result);
    }
    ScrubPlan plan;
    plan.add(coded_memory(bytes, codewords, offset, code, 1));
    SweepLog log;
    const std::vector<ScrubCounts> found = plan.scrub(&log, isa, 1);
    const std::string where = name(isa) + ", codewords " + shown(codewords) + " of bytes " +
                              shown(code.bytes) + ", check bits " + shown(code.check_bits) +
                              ", offset " + shown(offset);
    CHECK_IN(where, bytes == expected);
    CHECK_IN(where, found.size() == 1 && found[0].corrected == counts.corrected &&
                        found[0].detected == counts.detected);
    CHECK_IN(where, plan.scrub(nullptr, isa, 1)[0].corrected == 0);
    CHECK_IN(where, bytes == expected);
    log.restore();
    CHECK_IN(where, bytes == before);
}

void flip(std::vector<unsigned char>& bytes, std::size_t first, std::uint32_t place) {
    bytes[first + place / 8] =
        static_cast<unsigned char>(bytes[first + place / 8] ^ (1u << place % 8));
}

/// One or two flips in each codeword of memory of each length, to cover lanes, planes and tails.
void finds_one_error_anywhere(const SmallCode& code, Isa isa) {
    for (const std::size_t codewords : {0u, 1u, 2u, 15u, 64u, 65u, 257u, 300u}) {
        const std::size_t offset = codewords % 4;
        const std::vector<unsigned char> valid = valid_memory(code, codewords, offset);
        matches(valid, codewords, offset, code, isa);
        for (std::size_t i = 0; i < codewords; ++i) {
            std::vector<unsigned char> bytes = valid;
            const auto place = static_cast<std::uint32_t>((i * 7) % (8 * code.bytes));
            flip(bytes, offset + i * code.bytes, place);
            if (i % 3 == 0) flip(bytes, offset + i * code.bytes, (place + 3) % (8 * code.bytes));
            matches(bytes, codewords, offset, code, isa);
        }
    }
}

/// Every place of a codeword in the middle of a window.
void finds_each_place(const SmallCode& code, Isa isa) {
    constexpr std::size_t codewords = 600;
    const std::vector<unsigned char> valid = valid_memory(code, codewords, 0);
    for (std::uint32_t place = 0; place < 8 * code.bytes; ++place) {
        std::vector<unsigned char> bytes = valid;
        flip(bytes, (100 + 5 * place) * code.bytes, place);
        matches(bytes, codewords, 0, code, isa);
    }
}

void finds_many_errors(const SmallCode& code, Isa isa) {
    for (const std::size_t codewords : {5000u, 70001u}) {
        std::vector<unsigned char> bytes = valid_memory(code, codewords, 3);
        std::mt19937_64 random(11);
        for (std::size_t i = 0; i < codewords; i += 1 + (i * 7) % 400)
            for (std::uint64_t flips = random() % 4; flips != 0; --flips)
                flip(bytes, 3 + i * code.bytes,
                     static_cast<std::uint32_t>(random() % (8 * code.bytes)));
        matches(bytes, codewords, 3, code, isa);
    }
}

void encoding_writes_valid_check_bits(const SmallCode& code) {
    constexpr std::size_t codewords = 70001, offset = 1;
    std::vector<unsigned char> bytes(codewords * code.bytes + 2 * offset, 0x5a);
    std::mt19937 random(3);
    for (unsigned char& byte : bytes) byte = static_cast<unsigned char>(random());
    const std::vector<unsigned char> before = bytes;
    const std::shared_ptr<const ScrubCode> native = code.native();
    encode_codewords(*native, bytes.data() + offset, codewords, 2);
    CHECK(bytes.front() == before.front() && bytes.back() == before.back());
    for (std::size_t i = 0; i < codewords; ++i) {
        const std::size_t at = offset + i * code.bytes;
        CHECK(codeword_at(bytes, at, code.bytes) ==
              code.encoded(codeword_at(before, at, code.bytes)));
    }
}

/// Each word of a replaced codeword has the replacement of its own channel.
void replacements_follow_channels() {
    const SmallCode code(8, 13, false);
    constexpr std::size_t codewords = 40;
    const std::vector<float> low = {-1, 0.5f, -4}, high = {1, 2, -0.25f};
    for (const Isa isa : available_isas()) {
        std::vector<unsigned char> bytes = valid_memory(code, codewords, 0);
        CodedMemory memory = coded_memory(bytes, codewords, 0, code, 2);
        memory.first_word = 7;
        memory.replacement = {reinterpret_cast<std::uintptr_t>(low.data()),
                              reinterpret_cast<std::uintptr_t>(high.data()),
                              Dtype::float32,
                              Dtype::bfloat16,
                              3,
                              5};
        ScrubPlan plan;
        plan.add(memory);
        for (std::size_t i = 0; i < codewords; ++i) {
            flip(bytes, 8 * i, 20);
            flip(bytes, 8 * i, 40);
        }
        CHECK_EQUAL(plan.scrub(nullptr, isa, 1)[0].detected, std::uint64_t{codewords});
        for (std::size_t i = 0; i < codewords; ++i) {
            std::uint64_t packed = 0;
            for (std::size_t k = 0; k < 4; ++k) {
                const float nearest[] = {0.0f, 0.5f, -0.25f};
                const std::size_t channel = (7 + 4 * i + k) / 5 % 3;
                packed |= std::uint64_t{Arithmetic<BFloat16>::store(nearest[channel]).word}
                          << (16 * k);
            }
            CHECK(codeword_at(bytes, 8 * i, 8) == code.encoded(packed));
        }
    }
}

void arguments_are_checked() {
    const SmallCode code(4, 7, false);
    std::vector<unsigned char> bytes = valid_memory(code, 2, 0);
    ScrubPlan plan;
    CodedMemory memory = coded_memory(bytes, 2, 0, code, 3);
    CHECK_THROWS(std::invalid_argument, plan.add(memory));
    memory.word_bytes = 4;
    memory.replacement.inner = 0;
    CHECK_THROWS(std::invalid_argument, plan.add(memory));
    memory.replacement.inner = 1;
    memory.code = nullptr;
    CHECK_THROWS(std::invalid_argument, plan.add(memory));
    SmallCode three = code;
    three.bytes = 3;
    CHECK_THROWS(std::invalid_argument, ScrubCode(three.definition()));
    three.bytes = 4;
    three.check_bits = 25;
    CHECK_THROWS(std::invalid_argument, ScrubCode(three.definition()));
}

}  // namespace

int main() {
    for (const SmallCode& code : small_codes()) {
        for (const Isa isa : available_isas()) {
            finds_one_error_anywhere(code, isa);
            finds_each_place(code, isa);
            finds_many_errors(code, isa);
        }
        encoding_writes_valid_check_bits(code);
    }
    replacements_follow_channels();
    arguments_are_checked();
    return summary();
}
