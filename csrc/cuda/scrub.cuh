// The kernels that encode and scrub codewords.
#pragma once

#include <cstdint>

#include "scrub.hpp"
#include "sweep.cuh"

namespace proact::cuda {

/// Calls `use` with an integer of the size of a codeword, so that loops over its bits unroll.
template <class Use>
__device__ void with_codeword_of(std::uint32_t bytes, Use use) {
    switch (bytes) {
        case 1: return use(std::uint8_t{});
        case 2: return use(std::uint16_t{});
        case 4: return use(std::uint32_t{});
        default: return use(std::uint64_t{});
    }
}

/// The valid codeword that consists of replacements. `first` is the number of its first word.
__device__ inline std::uint64_t replacement_codeword(const DeviceCodewords& codewords,
                                                     const CodeTables& code,
                                                     std::uint32_t word_bytes,
                                                     std::uint64_t first) {
    const Replacement& replacement = codewords.replacement;
    ChannelWalk walk(first, replacement.channels, replacement.inner);
    std::uint64_t packed = 0;
    for (std::uint32_t byte = 0; byte < code.codeword_bytes; byte += word_bytes) {
        packed |= replacement_word(replacement, walk.channel) << (8 * byte);
        walk.step();
    }
    return code.encoded(packed);
}

/// Returns a bit for each invalid codeword of a group.
template <std::uint32_t bytes>
__device__ std::uint32_t invalid_codewords(const SweptGroup& group, const Group& words,
                                           CodeTables code) {
    code.codeword_bytes = bytes;
    std::uint32_t invalid = 0;
    for (std::uint32_t byte = 0; byte < group_bytes; byte += bytes) {
        if (byte >= group.bytes) break;
        invalid |= std::uint32_t{code.syndrome(words.at(byte, bytes)) != 0} << (byte / bytes);
    }
    return invalid;
}

/// Corrects or replaces the codewords whose bit is set, unless they must stay. Returns the number
/// of those whose error is only detected.
__device__ inline std::uint32_t repair(const SweptGroup& group, const Group& words,
                                       std::uint32_t invalid, const DeviceCodewords& codewords,
                                       const CodeTables& code, bool must_stay) {
    const std::uint32_t bytes = group.unit_bytes;
    std::uint32_t detected = 0;
    for (std::uint32_t byte = 0; invalid != 0; byte += bytes, invalid >>= 1) {
        if ((invalid & 1) == 0) continue;
        const std::uint64_t word = words.at(byte, bytes);
        const std::uint32_t syndrome = code.syndrome(word);
        const bool is_detected = code.is_detected[syndrome] != 0;
        detected += is_detected;
        if (must_stay) continue;
        const std::uint64_t first_word =
            codewords.first_word + group.first_word() + byte / group.word_bytes;
        group.store_unit(byte,
                         is_detected && !code.masks
                             ? replacement_codeword(codewords, code, group.word_bytes, first_word)
                             : code.corrected(word, syndrome));
    }
    return detected;
}

__global__ void __launch_bounds__(sweep_threads)
    scrub_kernel(SweptMemories memories, DeviceCodes codes, DeviceSweepLog log) {
    const SweptGroup group = swept_group(memories);
    if (group.bytes == 0) return;
    const DeviceCodewords& codewords =
        reinterpret_cast<const DeviceCodewords*>(codes.codewords)[group.index];
    const CodeTables code = codewords.code.at(codes.tables);
    const Group words = group.load();
    std::uint32_t invalid = 0;
    with_codeword_of(group.unit_bytes, [&](auto word) {
        invalid = invalid_codewords<sizeof word>(group, words, code);
    });
    if (invalid == 0) return;
    const bool must_stay = !group.log_change(log, words, invalid);
    const std::uint32_t detected = repair(group, words, invalid, codewords, code, must_stay);
    add_to_count(log, 2 * group.index, ones_of(invalid) - detected);
    add_to_count(log, 2 * group.index + 1, detected);
}

__global__ void __launch_bounds__(sweep_threads)
    encode_kernel(SweptMemories memories, DeviceCodes codes) {
    const SweptGroup group = swept_group(memories);
    if (group.bytes == 0) return;
    const CodeTables code =
        reinterpret_cast<const DeviceCodewords*>(codes.codewords)[group.index].code.at(
            codes.tables);
    const Group words = group.load();
    for (std::uint32_t byte = 0; byte < group.bytes; byte += group.unit_bytes)
        group.store_unit(byte, code.encoded(words.at(byte, group.unit_bytes)));
}

}  // namespace proact::cuda
