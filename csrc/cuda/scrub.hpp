// Codewords in device memory: encoding and scrubbing, by one launch for all tensors of a plan. All
// addresses refer to device memory. A failed launch throws Failure.
#pragma once

#include <cstdint>
#include <type_traits>

#include "../core/codes.hpp"
#include "../core/swept_memory.hpp"
#include "sweep.hpp"

namespace proact::cuda {

/// A code whose tables are in device memory, at offsets in bytes from an address that all codes of
/// a plan share.
struct DeviceCode {
    std::uint32_t codeword_bytes, check_bits;
    std::uint64_t payload;
    std::uint64_t syndromes, spread, flips, keeps, is_detected;
    std::uint64_t masks;  // 0 or 1

    PROACT_HOST_DEVICE CodeTables at(std::uintptr_t tables) const {
        return {codeword_bytes,
                check_bits,
                payload,
                reinterpret_cast<const std::uint32_t*>(tables + syndromes),
                reinterpret_cast<const std::uint64_t*>(tables + spread),
                reinterpret_cast<const std::uint64_t*>(tables + flips),
                reinterpret_cast<const std::uint64_t*>(tables + keeps),
                reinterpret_cast<const std::uint8_t*>(tables + is_detected),
                masks != 0};
    }
};

/// The code of a SweptMemory and the replacements of its words.
struct DeviceCodewords {
    DeviceCode code;
    std::uint64_t first_word;  // the number in the tensor of the first word
    Replacement replacement;
};
static_assert(std::is_trivially_copyable_v<DeviceCodewords>, "it is uploaded as bytes");

/// The address of a DeviceCodewords for each memory, and that of the tables.
struct DeviceCodes {
    std::uintptr_t codewords, tables;
};

/// Writes valid check bits into all codewords.
void encode(const SweptMemories& memories, const DeviceCodes& codes, Stream stream);

/// Corrects or replaces invalid codewords, as `ScrubPlan` does on the host. Two counts belong to
/// each memory: the numbers of corrected and of detected codewords are added to them.
void scrub(const SweptMemories& memories, const DeviceCodes& codes, const DeviceSweepLog& log,
           Stream stream);

}  // namespace proact::cuda
