// A code with its tables in host memory.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "../core/codes.hpp"
#include "isa.hpp"
#include "scrub_kernels.hpp"

namespace proact {

/// The tables of a code by byte of the codeword or of the syndrome.
struct CodeDefinition {
    std::uint32_t codeword_bytes, check_bits;
    std::uint64_t payload;
    const std::uint32_t* syndromes;  // 8 x 256: the syndrome of each value of each byte
    const std::uint64_t* spread;     // 8 x 256: the places of check bits, by byte of the syndrome
    const std::uint64_t* flips;      // 2^check_bits, as are the following
    const std::uint64_t* keeps;
    const std::uint8_t* is_detected;
    bool masks;
};

class ScrubCode {
   public:
    /// Copies the tables. Throws std::invalid_argument for a codeword of another size than 1, 2, 4
    /// or 8 bytes, and for check bits outside 1 to 24.
    explicit ScrubCode(const CodeDefinition& code);

    ScrubCode(const ScrubCode&) = delete;
    ScrubCode& operator=(const ScrubCode&) = delete;

    CodeTables tables() const;

    /// Calls the search for invalid codewords of the given instruction set.
    std::size_t first_invalid(const unsigned char* x, std::size_t codewords, Isa isa) const;

   private:
    CodeTables tables_;
    std::vector<std::uint32_t> syndromes_;
    std::vector<std::uint64_t> spread_, flips_, keeps_;
    std::vector<std::uint8_t> is_detected_;
    NibbleTables nibbles_;
};

/// Writes valid check bits into adjacent codewords.
void encode_codewords(const ScrubCode& code, unsigned char* x, std::uint64_t codewords,
                      unsigned threads);

}  // namespace proact
