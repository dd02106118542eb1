// Search for invalid codewords, one function per instruction set.
#pragma once

#include <cstddef>
#include <cstdint>

#include "../core/codes.hpp"

namespace proact {

/// Upper bound of the number of codewords from the returned index to the invalid one.
constexpr std::size_t scrub_window = 512;

/// The syndrome of each value of each half byte of a codeword, one table per byte of the syndrome.
struct NibbleTables {
    alignas(16) std::uint8_t low[8][3][16];
    alignas(16) std::uint8_t high[8][3][16];
};

/// Returns an index i such that the codewords 0 to i - 1 are valid. If i < codewords, one of the
/// next `scrub_window` codewords may be invalid. The function only reads.
using FirstInvalid = std::size_t (*)(const unsigned char* x, std::size_t codewords,
                                     const CodeTables& code, const NibbleTables& nibbles);

FirstInvalid baseline_first_invalid(std::uint32_t codeword_bytes, std::uint32_t syndrome_bytes);
FirstInvalid avx2_first_invalid(std::uint32_t codeword_bytes, std::uint32_t syndrome_bytes);
FirstInvalid avx512_first_invalid(std::uint32_t codeword_bytes, std::uint32_t syndrome_bytes);

}  // namespace proact
