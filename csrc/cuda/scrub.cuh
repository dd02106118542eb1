// Encoding and scrubbing of codewords. Each thread handles one codeword.
#pragma once

#include <cstdint>

#include "launch.cuh"
#include "quotient.hpp"
#include "scrub.hpp"

namespace proact::cuda {

constexpr unsigned scrub_threads = 256;

PROACT_ELEMENTWISE std::uint64_t load_word(std::uintptr_t address, std::uint32_t bytes) {
    switch (bytes) {
        case 1: return *reinterpret_cast<const std::uint8_t*>(address);
        case 2: return *reinterpret_cast<const std::uint16_t*>(address);
        case 4: return *reinterpret_cast<const std::uint32_t*>(address);
        default: return *reinterpret_cast<const std::uint64_t*>(address);
    }
}

PROACT_ELEMENTWISE void store_word(std::uintptr_t address, std::uint32_t bytes,
                                   std::uint64_t word) {
    switch (bytes) {
        case 1: *reinterpret_cast<std::uint8_t*>(address) = static_cast<std::uint8_t>(word); return;
        case 2:
            *reinterpret_cast<std::uint16_t*>(address) = static_cast<std::uint16_t>(word);
            return;
        case 4:
            *reinterpret_cast<std::uint32_t*>(address) = static_cast<std::uint32_t>(word);
            return;
        default: *reinterpret_cast<std::uint64_t*>(address) = word;
    }
}

/// A device reads only aligned words, so a codeword is put together from its words.
PROACT_ELEMENTWISE std::uint64_t load_codeword_of(std::uintptr_t address, std::uint32_t bytes,
                                                  std::uint32_t word_bytes) {
    std::uint64_t packed = 0;
    for (std::uint32_t byte = 0; byte < bytes; byte += word_bytes)
        packed |= load_word(address + byte, word_bytes) << (8 * byte);
    return packed;
}

PROACT_ELEMENTWISE void store_codeword_of(std::uintptr_t address, std::uint32_t bytes,
                                          std::uint32_t word_bytes, std::uint64_t packed) {
    for (std::uint32_t byte = 0; byte < bytes; byte += word_bytes)
        store_word(address + byte, word_bytes, packed >> (8 * byte));
}

__global__ void __launch_bounds__(scrub_threads)
    encode_kernel(DeviceCodewords memory, CodeTables code) {
    const std::uint64_t i = std::uint64_t{blockIdx.x} * blockDim.x + threadIdx.x;
    if (i >= memory.codewords) return;
    const std::uintptr_t at = memory.address + i * code.codeword_bytes;
    const std::uint64_t packed = load_codeword_of(at, code.codeword_bytes, memory.word_bytes);
    store_codeword_of(at, code.codeword_bytes, memory.word_bytes, code.encoded(packed));
}

__global__ void __launch_bounds__(scrub_threads)
    scrub_kernel(DeviceCodewords memory, CodeTables code, DeviceReplacements replacements,
                 unsigned long long* counts) {
    const std::uint64_t i = std::uint64_t{blockIdx.x} * blockDim.x + threadIdx.x;
    if (i >= memory.codewords) return;
    const std::uint32_t bytes = code.codeword_bytes, word_bytes = memory.word_bytes;
    const std::uintptr_t at = memory.address + i * bytes;
    std::uint64_t packed = load_codeword_of(at, bytes, word_bytes);
    const std::uint32_t syndrome = code.syndrome(packed);
    if (syndrome == 0) return;
    const bool is_detected = code.is_detected[syndrome] != 0;
    if (is_detected && !code.masks) {
        std::uint64_t word = replacements.first_word + i * (bytes / word_bytes);
        packed = 0;
        for (std::uint32_t byte = 0; byte < bytes; byte += word_bytes, ++word) {
            const std::uint64_t run = quotient(word, replacements.inner);
            const std::uint64_t channel =
                run - quotient(run, replacements.channels) * replacements.channels;
            packed |= load_word(replacements.words + channel * word_bytes, word_bytes)
                      << (8 * byte);
        }
        packed = code.encoded(packed);
    } else {
        packed = code.corrected(packed, syndrome);
    }
    store_codeword_of(at, bytes, word_bytes, packed);
    atomicAdd(counts + is_detected, 1ull);
}

}  // namespace proact::cuda
