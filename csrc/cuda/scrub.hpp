// Codewords in device memory: encoding and scrubbing. All addresses, those of the tables included,
// refer to device memory. A failed launch throws Failure.
#pragma once

#include <cstdint>

#include "../core/codes.hpp"
#include "runtime.hpp"

namespace proact::cuda {

/// Adjacent codewords of a tensor, which begin at a multiple of the size of a word.
struct DeviceCodewords {
    std::uintptr_t address;
    std::uint64_t codewords;
    std::uint32_t word_bytes;  // divides the bytes of a codeword
};

/// The memory words in place of those whose error is only detected. Word w of a tensor gets number
/// w / inner % channels.
struct DeviceReplacements {
    std::uintptr_t words;
    std::uint64_t first_word;  // the number in the tensor of the first word that is scrubbed
    std::uint64_t channels, inner;
};

/// Writes valid check bits into all codewords.
void encode_codewords(const DeviceCodewords& memory, const CodeTables& code, Stream stream);

/// Corrects or replaces invalid codewords, as `ScrubPlan` does on the host, and adds their numbers
/// to counts[0] (corrected) and counts[1] (detected).
void scrub_codewords(const DeviceCodewords& memory, const CodeTables& code,
                     const DeviceReplacements& replacements, std::uintptr_t counts, Stream stream);

}  // namespace proact::cuda
