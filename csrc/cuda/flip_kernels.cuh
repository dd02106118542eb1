// Kernels that flip the bits of a tensor block by block and restore the old words. Blocks share no
// word. Threads share none either, except where a comment explains how.
#pragma once

#include <cstdint>

#include "flip_words.cuh"
#include "lane_sum.cuh"
#include "launch.cuh"
#include "quotient.hpp"

namespace proact::cuda {

__device__ inline std::uint64_t thread_number() {
    return std::uint64_t{blockIdx.x} * blockDim.x + threadIdx.x;
}

/// Makes the flips in drawing order. Each flip reads memory, so the second flip in a word sees the
/// first.
template <class Words>
__device__ void flip_one_by_one(const FlipTask& task, std::uint64_t block,
                                const DrawnPositions& drawn) {
    using Word = typename Words::Word;
    auto* const memory = static_cast<Word*>(task.memory);
    for (std::uint32_t i = 0; i < drawn.count; ++i) {
        const std::uint32_t word = drawn.position[i] / task.bits_per_word;
        const std::uint8_t bit = task.exposed[drawn.position[i] - word * task.bits_per_word];
        const std::uint64_t element = task.first_word(block) + word;
        const Word before = memory[element];
        task.log.write(block, i, static_cast<std::uint32_t>(element), bit, before);
        memory[element] = with_bit_flipped(before, bit);
    }
}

/// Makes all flips of a word at once, in the order of the words' first flips. The log has the same
/// contents as if the flips were made in drawing order.
template <class Words>
__device__ void flip_word_by_word(const FlipTask& task, const Words& words, std::uint64_t block,
                                  const DrawnPositions& drawn) {
    using Word = typename Words::Word;
    auto* const memory = static_cast<Word*>(task.memory);
    for (std::uint32_t i = 0; i < drawn.count; ++i) {
        const std::uint32_t first_position =
            drawn.position[i] / task.bits_per_word * task.bits_per_word;
        const auto in_word = [&](std::uint32_t j) {
            return drawn.position[j] - first_position < task.bits_per_word;
        };
        bool done = false;
        for (std::uint32_t j = 0; j < i && !done; ++j) done = in_word(j);
        if (done) continue;

        const std::uint64_t element = task.first_word(block) + first_position / task.bits_per_word;
        Word word = memory[element];
        auto stored = words.encode(word);
        for (std::uint32_t j = i; j < drawn.count; ++j) {
            if (!in_word(j)) continue;
            const std::uint8_t bit = task.exposed[drawn.position[j] - first_position];
            task.log.write(block, j, static_cast<std::uint32_t>(element), bit, word);
            stored = with_bit_flipped(stored, bit);
            word = words.decode(stored);
        }
        memory[element] = word;
    }
}

/// Uses one thread per block of the tensor.
template <class Words>
__global__ void __launch_bounds__(flip_threads)
    flip_drawn_kernel(const __grid_constant__ FlipTask task, Words words) {
    const std::uint64_t block = thread_number();
    if (block >= task.log.blocks) return;

    DrawnPositions drawn;
    task.draw(block, drawn);
    const std::uint32_t bits_here = task.bits_here(block);
    std::uint32_t kept = 0;
    for (std::uint32_t i = 0; i < drawn.count; ++i)
        if (drawn.position[i] < bits_here) drawn.position[kept++] = drawn.position[i];
    drawn.count = kept;

    task.log.counts[block] = drawn.count;
    if constexpr (Words::round_trips)
        flip_one_by_one<Words>(task, block, drawn);
    else
        flip_word_by_word(task, words, block, drawn);
}

/// Number of words per thread of flip_all_but_drawn_kernel.
constexpr std::uint32_t words_per_share = 64;

__device__ inline void sort(DrawnPositions& drawn) {
    for (std::uint32_t i = 1; i < drawn.count; ++i) {
        const std::uint32_t position = drawn.position[i];
        std::uint32_t j = i;
        for (; j > 0 && drawn.position[j - 1] > position; --j)
            drawn.position[j] = drawn.position[j - 1];
        drawn.position[j] = position;
    }
}

/// Returns the number of sorted positions below `end`.
__device__ inline std::uint32_t positions_below(const DrawnPositions& drawn, std::uint32_t end) {
    std::uint32_t count = 0;
    while (count < drawn.count && drawn.position[count] < end) ++count;
    return count;
}

/// For ber > 1/2: the drawn bits stay and all others flip, in the order of their positions. Blocks
/// can be large, so several threads share the words of a block. Each thread draws the whole block,
/// which is cheap compared with its share of the flips. The log slot of a flip follows from its
/// position.
template <class Words>
__global__ void __launch_bounds__(flip_threads)
    flip_all_but_drawn_kernel(const __grid_constant__ FlipTask task, Words words,
                              std::uint32_t shares) {
    using Word = typename Words::Word;
    const std::uint64_t block = quotient(thread_number(), shares);
    if (block >= task.log.blocks) return;
    const auto share = static_cast<std::uint32_t>(thread_number() - block * shares);

    DrawnPositions drawn;
    task.draw(block, drawn);
    sort(drawn);
    const std::uint32_t bits_here = task.bits_here(block);
    if (share == 0) task.log.counts[block] = bits_here - positions_below(drawn, bits_here);

    const std::uint32_t share_bits = words_per_share * task.bits_per_word;
    if (share * share_bits >= bits_here) return;
    std::uint32_t position = share * share_bits;
    const std::uint32_t end = bits_here - position < share_bits ? bits_here : position + share_bits;
    std::uint32_t stayed = positions_below(drawn, position);
    std::uint64_t element = task.first_word(block) + share * words_per_share;
    auto* const memory = static_cast<Word*>(task.memory);
    for (; position < end; ++element) {
        const Word clean = memory[element];
        Word word = clean;
        auto stored = words.encode(word);
        for (std::uint32_t rank = 0; rank < task.bits_per_word; ++rank, ++position) {
            if (stayed < drawn.count && drawn.position[stayed] == position) {
                ++stayed;
                continue;
            }
            const std::uint8_t bit = task.exposed[rank];
            task.log.write(block, position - stayed, static_cast<std::uint32_t>(element), bit,
                           word);
            stored = with_bit_flipped(stored, bit);
            word = words.decode(stored);
        }
        if (word != clean) memory[element] = word;
    }
}

/// Restores the last flip first, so that a word ends with its value before the first flip.
template <class Word>
__global__ void __launch_bounds__(flip_threads) restore_drawn_kernel(Word* memory, DeviceLog log) {
    const std::uint64_t block = thread_number();
    if (block >= log.blocks) return;
    const std::uint64_t first = block * log.slots;
    for (std::uint32_t i = log.counts[block]; i-- > 0;)
        memory[log.element[first + i]] = static_cast<const Word*>(log.before)[first + i];
}

/// Restores the flips of flip_all_but_drawn_kernel with one thread per slot. The flips of a word
/// are adjacent there, and only the thread of the first one writes.
template <class Word>
__global__ void __launch_bounds__(flip_threads)
    restore_all_but_drawn_kernel(Word* memory, DeviceLog log) {
    const std::uint64_t place = thread_number();
    const std::uint64_t block = quotient(place, log.slots);
    if (block >= log.blocks) return;
    const std::uint64_t slot = place - block * log.slots;
    if (slot >= log.counts[block]) return;
    const std::uint32_t element = log.element[place];
    if (slot > 0 && log.element[place - 1] == element) return;
    memory[element] = static_cast<const Word*>(log.before)[place];
}

/// Integer addition is associative, so atomic addition is deterministic here.
__global__ void __launch_bounds__(reduction_threads)
    add_counts_kernel(const std::uint32_t* counts, std::uint64_t blocks,
                      unsigned long long* total) {
    __shared__ unsigned long long sums[reduction_threads];
    unsigned long long sum = 0;
    const std::uint64_t threads = std::uint64_t{gridDim.x} * blockDim.x;
    for (std::uint64_t block = thread_number(); block < blocks; block += threads)
        sum += counts[block];
    sums[threadIdx.x] = sum;
    sum_lanes(sums, reduction_threads, 1);
    if (threadIdx.x == 0) atomicAdd(total, sums[0]);
}

}  // namespace proact::cuda
