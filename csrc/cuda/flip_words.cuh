// The parameters of the flip kernels, passed by value so that a launch needs no upload, and the
// conversion between memory words and stored words.
#pragma once

#include <cstdint>

#include "../core/fault_block.hpp"
#include "../core/fixed_point.hpp"
#include "../core/simd_traits.hpp"
#include "launch.cuh"

namespace proact::cuda {

constexpr unsigned flip_threads = 128;

/// A BinomialTable as a kernel parameter.
struct CountTable {
    std::uint64_t survival[BinomialTable::max_count];
    std::uint8_t guide[1 << BinomialView::guide_bits];
    std::uint32_t size;
};

/// See LogLayout. `element` is null if no log is kept.
struct DeviceLog {
    void* before;
    std::uint32_t* element;
    std::uint8_t* bit;
    std::uint32_t* counts;
    std::uint64_t blocks;
    std::uint64_t slots;

    template <class Word>
    __device__ void write(std::uint64_t block, std::uint32_t slot, std::uint32_t at,
                          std::uint8_t flipped, Word word) const {
        if (element == nullptr) return;
        const std::uint64_t place = block * slots + slot;
        static_cast<Word*>(before)[place] = word;
        element[place] = at;
        bit[place] = flipped;
    }
};

struct FlipTask {
    void* memory;
    std::uint64_t words;
    DeviceLog log;
    FaultStream fault;
    std::uint32_t words_log2;
    std::uint32_t bits_per_word;
    CountTable table;
    std::uint8_t exposed[64];  // bit number of each exposed bit in the stored word

    __device__ std::uint64_t first_word(std::uint64_t block) const { return block << words_log2; }
    /// Number of exposed bits of a block that lie within the tensor.
    __device__ std::uint32_t bits_here(std::uint64_t block) const {
        const std::uint64_t left = words - first_word(block);
        const std::uint64_t whole = std::uint64_t{1} << words_log2;
        return static_cast<std::uint32_t>(left < whole ? left : whole) * bits_per_word;
    }
    __device__ void draw(std::uint64_t block, DrawnPositions& drawn) const {
        const BinomialView counts{table.survival, table.guide, table.size};
        draw_block_into(drawn, {words_log2, bits_per_word, false, counts}, fault,
                        static_cast<std::uint32_t>(block));
    }
};
// Kernel parameters are limited to 4 KB before CUDA 12.1 and on older GPUs.
static_assert(sizeof(FlipTask) <= 2048, "a launch copies it");

/// Words whose memory representation is their stored form.
template <class Word_>
struct DeviceNativeWords {
    using Word = Word_;
    using Stored = Word_;
    static constexpr bool round_trips = true;

    __device__ Stored encode(Word word) const { return word; }
    __device__ Word decode(Stored stored) const { return stored; }
};

/// Fixed-point words that memory represents as floats.
///
/// A float has fewer digits than a 32-bit word, so decoding and encoding can give another word. All
/// flips of a word must therefore act on the same stored word, one after another.
template <class Real>
struct DeviceFixedPointWords {
    using Word = typename SimdTraits<Real>::Bits;
    using Stored = std::uint32_t;
    static constexpr bool round_trips = false;
    FixedPoint fixed;

    __device__ Stored encode(Word word) const {
        return fixed.encode(SimdTraits<Real>::from_bits(word));
    }
    __device__ Word decode(Stored stored) const {
        return SimdTraits<Real>::bits(fixed.template decode<Real>(stored));
    }
};

template <class Stored>
__device__ Stored with_bit_flipped(Stored word, std::uint8_t bit) {
    return static_cast<Stored>(word ^ (Stored{1} << bit));
}

}  // namespace proact::cuda
