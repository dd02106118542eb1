// Linear codes whose check bits take low bits of the words that they protect, as tables.
#pragma once

#include <cstdint>

#include "host_device.hpp"

namespace proact {

/// Bits of a codeword that one table entry of its syndrome covers.
constexpr std::uint32_t syndrome_index_bits = 11;
constexpr std::uint32_t syndrome_index_values = 1u << syndrome_index_bits;

/// A codeword of 8, 16, 32 or 64 bits, packed into one integer, and the tables of its code. The
/// owner of the tables keeps them alive; on a device, they are in device memory.
///
/// The syndrome is the XOR of the entries for each group of 11 bits, and 0 if the codeword is
/// valid. The check bits are the syndrome of the payload, moved to their places.
struct CodeTables {
    std::uint32_t codeword_bytes;
    std::uint32_t check_bits;         // at most 24
    std::uint64_t payload;            // the places that do not hold check bits
    const std::uint32_t* syndromes;   // groups x 2048
    const std::uint64_t* spread;      // 3 x 256: the places of check bits, by byte of the syndrome
    const std::uint64_t* flips;       // by syndrome: places to flip
    const std::uint64_t* keeps;       // by syndrome: places that keep their value
    const std::uint8_t* is_detected;  // by syndrome
    bool masks;                       // whether `keeps` repairs what is detected

    PROACT_HOST_DEVICE std::uint32_t groups() const {
        return (8 * codeword_bytes + syndrome_index_bits - 1) / syndrome_index_bits;
    }

    PROACT_HOST_DEVICE std::uint32_t syndrome(std::uint64_t word) const {
        std::uint32_t result = 0;
        for (std::uint32_t group = 0; group < groups(); ++group, word >>= syndrome_index_bits)
            result ^= syndromes[group * syndrome_index_values + word % syndrome_index_values];
        return result;
    }

    PROACT_HOST_DEVICE std::uint64_t encoded(std::uint64_t word) const {
        word &= payload;
        std::uint32_t check = syndrome(word);
        for (std::uint32_t byte = 0; check != 0; ++byte, check >>= 8)
            word |= spread[byte * 256 + check % 256];
        return word;
    }

    /// The codeword for a syndrome that is not 0. The caller replaces it instead if it is detected
    /// and the code does not mask.
    PROACT_HOST_DEVICE std::uint64_t corrected(std::uint64_t word, std::uint32_t syndrome) const {
        return (word ^ flips[syndrome]) & keeps[syndrome];
    }
};

}  // namespace proact
