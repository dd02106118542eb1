#include "scrub_code.hpp"

#include <algorithm>
#include <stdexcept>
#include <string>

#include "codeword_memory.hpp"
#include "threads.hpp"

namespace proact {
namespace {

constexpr std::uint32_t max_check_bits = 24;

FirstInvalid first_invalid_of(const CodeTables& tables, Isa isa) {
    const std::uint32_t syndrome_bytes = (tables.check_bits + 7) / 8;
#if defined(__x86_64__)
    if (isa == Isa::avx512) return avx512_first_invalid(tables.codeword_bytes, syndrome_bytes);
    if (isa == Isa::avx2) return avx2_first_invalid(tables.codeword_bytes, syndrome_bytes);
#else
    static_cast<void>(isa);
#endif
    return baseline_first_invalid(tables.codeword_bytes, syndrome_bytes);
}

std::uint32_t syndrome_by_bytes(const std::uint32_t* byte_tables, std::uint64_t word) {
    std::uint32_t result = 0;
    for (std::uint32_t byte = 0; byte < 8; ++byte, word >>= 8)
        result ^= byte_tables[byte * 256 + word % 256];
    return result;
}

}  // namespace

ScrubCode::ScrubCode(const CodeDefinition& code) {
    const std::uint32_t bytes = code.codeword_bytes;
    if (bytes != 1 && bytes != 2 && bytes != 4 && bytes != 8)
        throw std::invalid_argument("expected codewords of 1, 2, 4 or 8 bytes, got " +
                                    std::to_string(bytes));
    if (code.check_bits == 0 || code.check_bits > max_check_bits)
        throw std::invalid_argument("expected 1 to 24 check bits, got " +
                                    std::to_string(code.check_bits));
    tables_.codeword_bytes = bytes;
    tables_.check_bits = code.check_bits;
    tables_.payload = code.payload;
    tables_.masks = code.masks;
    const std::size_t syndromes = std::size_t{1} << code.check_bits;
    for (std::uint32_t group = 0; group < tables_.groups(); ++group)
        for (std::uint64_t value = 0; value < syndrome_index_values; ++value)
            syndromes_.push_back(
                syndrome_by_bytes(code.syndromes, value << (group * syndrome_index_bits)));
    spread_.assign(code.spread, code.spread + 3 * 256);
    flips_.assign(code.flips, code.flips + syndromes);
    keeps_.assign(code.keeps, code.keeps + syndromes);
    is_detected_.assign(code.is_detected, code.is_detected + syndromes);
    for (std::uint32_t byte = 0; byte < 8; ++byte)
        for (std::uint32_t part = 0; part < 3; ++part)
            for (std::uint32_t value = 0; value < 16; ++value) {
                const std::uint32_t* table = code.syndromes + byte * 256;
                nibbles_.low[byte][part][value] =
                    static_cast<std::uint8_t>(table[value] >> (8 * part));
                nibbles_.high[byte][part][value] =
                    static_cast<std::uint8_t>(table[value << 4] >> (8 * part));
            }
}

CodeTables ScrubCode::tables() const {
    CodeTables tables = tables_;
    tables.syndromes = syndromes_.data();
    tables.spread = spread_.data();
    tables.flips = flips_.data();
    tables.keeps = keeps_.data();
    tables.is_detected = is_detected_.data();
    return tables;
}

std::size_t ScrubCode::first_invalid(const unsigned char* x, std::size_t codewords, Isa isa) const {
    return first_invalid_of(tables_, isa)(x, codewords, tables(), nibbles_);
}

void encode_codewords(const ScrubCode& code, unsigned char* x, std::uint64_t codewords,
                      unsigned threads) {
    constexpr std::uint64_t chunk = std::uint64_t{1} << 15;
    const CodeTables tables = code.tables();
    with_codeword(tables.codeword_bytes, [&](auto* type) {
        using Codeword = std::remove_pointer_t<decltype(type)>;
        parallel_for(threads, (codewords + chunk - 1) / chunk, [&](std::size_t task) {
            const std::uint64_t end = std::min(codewords, (task + 1) * chunk);
            for (std::uint64_t i = task * chunk; i < end; ++i) {
                unsigned char* at = x + i * sizeof(Codeword);
                store_codeword<Codeword>(at, tables.encoded(load_codeword<Codeword>(at)));
            }
        });
    });
}

}  // namespace proact
