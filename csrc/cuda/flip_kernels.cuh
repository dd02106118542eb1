// Kernels that draw the flips of all tensors of a plan, make them and restore the old words. Blocks
// share no word. Threads share none either, except where a comment explains how.
#pragma once

#include <cstdint>

#include "flip_words.cuh"
#include "flips.hpp"
#include "launch.cuh"
#include "quotient.hpp"

namespace proact::cuda {

/// Few, because the positions that each thread draws take 512 bytes of shared memory.
constexpr unsigned flip_threads = 32;
constexpr unsigned restore_threads = 128;

__device__ inline std::uint64_t thread_number() {
    return std::uint64_t{blockIdx.x} * blockDim.x + threadIdx.x;
}

/// Returns the tensor to which a thread belongs: the last one whose first thread is not above
/// `thread`. Tensors without elements have no thread.
__device__ inline std::uint32_t tensor_of(const DeviceLaw* laws, std::uint32_t tensors,
                                          std::uint64_t DeviceLaw::* first, std::uint64_t thread) {
    std::uint32_t low = 0;
    while (tensors > 1) {
        const std::uint32_t half = tensors / 2;
        if (laws[low + half].*first <= thread) low += half;
        tensors -= half;
    }
    return low;
}

/// The positions that the threads of a block draw, in shared memory: an array in a thread's local
/// memory would lie in device memory. Neighbouring threads use neighbouring banks.
class SharedPositions {
   public:
    __device__ explicit SharedPositions(std::uint32_t* shared) : mine_(shared + threadIdx.x) {}
    __device__ std::uint32_t& operator[](std::uint32_t i) { return mine_[i * flip_threads]; }
    __device__ std::uint32_t operator[](std::uint32_t i) const { return mine_[i * flip_threads]; }

    std::uint32_t count = 0;

   private:
    std::uint32_t* mine_;
};

/// One block of a tensor, the thread's share of it, and its place in the log.
struct TensorBlock {
    const DeviceTensor& tensor;
    const DeviceLaw& law;
    std::uint64_t number;
    std::uint32_t share;    // 0 unless the law is inverted
    std::uintptr_t memory;  // of the trial
    bool is_logged;

    __device__ std::uint64_t first_word() const { return number << law.words_log2; }
    /// Number of exposed bits that lie within the tensor.
    __device__ std::uint32_t bits_here() const {
        const std::uint64_t left = tensor.words - first_word();
        const std::uint64_t whole = std::uint64_t{1} << law.words_log2;
        return static_cast<std::uint32_t>(left < whole ? left : whole) * tensor.bits_per_word;
    }
    __device__ void draw(SharedPositions& drawn, std::uintptr_t tables,
                         const FaultPattern& pattern) const {
        const BinomialView counts{reinterpret_cast<const std::uint64_t*>(tables + law.survival),
                                  reinterpret_cast<const std::uint8_t*>(tables + law.guide),
                                  law.table_size};
        draw_block_into(drawn, BlockLaw{law.words_log2, tensor.bits_per_word, false, counts},
                        FaultStream{pattern.seed, pattern.trial, tensor.stream},
                        static_cast<std::uint32_t>(number));
    }
    __device__ void set_count(std::uint32_t flips) const {
        reinterpret_cast<std::uint32_t*>(memory + law.counts)[number] = flips;
    }
    template <class Word>
    __device__ void log(std::uint32_t slot, std::uint64_t element, std::uint8_t bit,
                        Word before) const {
        if (!is_logged) return;
        const std::uint64_t place = number * law.slots + slot;
        reinterpret_cast<Word*>(memory + law.before)[place] = before;
        reinterpret_cast<std::uint32_t*>(memory + law.element)[place] =
            static_cast<std::uint32_t>(element);
        reinterpret_cast<std::uint8_t*>(memory + law.bit)[place] = bit;
    }
};

/// Returns the block of the calling thread of a kernel that flips.
__device__ inline TensorBlock block_of_thread(const DeviceTensor* tensors, std::uint32_t count,
                                              const TrialMemory& memory) {
    const auto* const laws = reinterpret_cast<const DeviceLaw*>(memory.tables);
    const std::uint32_t number = tensor_of(laws, count, &DeviceLaw::first_thread, thread_number());
    const DeviceLaw& law = laws[number];
    const std::uint64_t within = thread_number() - law.first_thread;
    const std::uint64_t block = quotient(within, law.shares);
    return {tensors[number], law,
            block,           static_cast<std::uint32_t>(within - block * law.shares),
            memory.address,  memory.is_logged};
}

/// Makes the flips in drawing order. Each flip reads memory, so the second flip in a word sees the
/// first.
template <class Words>
__device__ void flip_one_by_one(const TensorBlock& block, const SharedPositions& drawn) {
    using Word = typename Words::Word;
    auto* const memory = reinterpret_cast<Word*>(block.tensor.address);
    const std::uint32_t bits_per_word = block.tensor.bits_per_word;
    for (std::uint32_t i = 0; i < drawn.count; ++i) {
        const std::uint32_t word = drawn[i] / bits_per_word;
        const std::uint8_t bit = block.tensor.exposed[drawn[i] - word * bits_per_word];
        const std::uint64_t element = block.first_word() + word;
        const Word before = memory[element];
        block.log(i, element, bit, before);
        memory[element] = with_bit_flipped(before, bit);
    }
}

/// Makes all flips of a word at once, in the order of the words' first flips. The log has the same
/// contents as if the flips were made in drawing order.
template <class Words>
__device__ void flip_word_by_word(const TensorBlock& block, const Words& words,
                                  const SharedPositions& drawn) {
    using Word = typename Words::Word;
    auto* const memory = reinterpret_cast<Word*>(block.tensor.address);
    const std::uint32_t bits_per_word = block.tensor.bits_per_word;
    for (std::uint32_t i = 0; i < drawn.count; ++i) {
        const std::uint32_t first_position = drawn[i] / bits_per_word * bits_per_word;
        const auto is_in_word = [&](std::uint32_t j) {
            return drawn[j] - first_position < bits_per_word;
        };
        bool is_done = false;
        for (std::uint32_t j = 0; j < i && !is_done; ++j) is_done = is_in_word(j);
        if (is_done) continue;

        const auto element =
            static_cast<std::uint32_t>(block.first_word() + first_position / bits_per_word);
        Word word = memory[element];
        auto stored = words.encode(word, element);
        for (std::uint32_t j = i; j < drawn.count; ++j) {
            if (!is_in_word(j)) continue;
            const std::uint8_t bit = block.tensor.exposed[drawn[j] - first_position];
            block.log(j, element, bit, word);
            stored = with_bit_flipped(stored, bit);
            word = words.decode(stored, element);
        }
        memory[element] = word;
    }
}

/// Uses one thread for each block of each tensor.
__global__ void __launch_bounds__(flip_threads)
    flip_drawn_kernel(const DeviceTensor* tensors, std::uint32_t count, TrialMemory memory,
                      FaultPattern pattern, std::uint64_t threads) {
    __shared__ std::uint32_t shared[BinomialTable::max_count * flip_threads];
    if (thread_number() >= threads) return;
    const TensorBlock block = block_of_thread(tensors, count, memory);

    SharedPositions drawn(shared);
    block.draw(drawn, memory.tables, pattern);
    const std::uint32_t bits_here = block.bits_here();
    std::uint32_t kept = 0;
    for (std::uint32_t i = 0; i < drawn.count; ++i)
        if (drawn[i] < bits_here) drawn[kept++] = drawn[i];
    drawn.count = kept;

    block.set_count(kept);
    with_words(block.tensor, [&](const auto& words) {
        using Words = std::decay_t<decltype(words)>;
        if constexpr (Words::round_trips)
            flip_one_by_one<Words>(block, drawn);
        else
            flip_word_by_word(block, words, drawn);
    });
}

__device__ inline void sort(SharedPositions& drawn) {
    for (std::uint32_t i = 1; i < drawn.count; ++i) {
        const std::uint32_t position = drawn[i];
        std::uint32_t j = i;
        for (; j > 0 && drawn[j - 1] > position; --j) drawn[j] = drawn[j - 1];
        drawn[j] = position;
    }
}

/// Returns the number of sorted positions below `end`.
__device__ inline std::uint32_t positions_below(const SharedPositions& drawn, std::uint32_t end) {
    std::uint32_t count = 0;
    while (count < drawn.count && drawn[count] < end) ++count;
    return count;
}

/// Flips the bits of one share of a block, except the drawn ones, which are sorted.
template <class Words>
__device__ void flip_share(const TensorBlock& block, const Words& words,
                           const SharedPositions& drawn) {
    using Word = typename Words::Word;
    const DeviceTensor& tensor = block.tensor;
    const std::uint32_t share = block.share;
    const std::uint32_t bits_here = block.bits_here();
    const std::uint32_t share_bits = words_per_share * tensor.bits_per_word;
    if (share * share_bits >= bits_here) return;
    std::uint32_t position = share * share_bits;
    const std::uint32_t end = bits_here - position < share_bits ? bits_here : position + share_bits;
    std::uint32_t stayed = positions_below(drawn, position);
    auto element = static_cast<std::uint32_t>(block.first_word() + share * words_per_share);
    auto* const memory = reinterpret_cast<Word*>(tensor.address);
    for (; position < end; ++element) {
        const Word clean = memory[element];
        Word word = clean;
        auto stored = words.encode(word, element);
        for (std::uint32_t rank = 0; rank < tensor.bits_per_word; ++rank, ++position) {
            if (stayed < drawn.count && drawn[stayed] == position) {
                ++stayed;
                continue;
            }
            const std::uint8_t bit = tensor.exposed[rank];
            block.log(position - stayed, element, bit, word);
            stored = with_bit_flipped(stored, bit);
            word = words.decode(stored, element);
        }
        if (word != clean) memory[element] = word;
    }
}

/// For ber > 1/2: the drawn bits stay and all others flip, in the order of their positions. Blocks
/// can be large, so several threads share the words of a block. Each thread draws the whole block,
/// which is cheap compared with its share of the flips. The log slot of a flip follows from its
/// position.
__global__ void __launch_bounds__(flip_threads)
    flip_all_but_drawn_kernel(const DeviceTensor* tensors, std::uint32_t count, TrialMemory memory,
                              FaultPattern pattern, std::uint64_t threads) {
    __shared__ std::uint32_t shared[BinomialTable::max_count * flip_threads];
    if (thread_number() >= threads) return;
    const TensorBlock block = block_of_thread(tensors, count, memory);

    SharedPositions drawn(shared);
    block.draw(drawn, memory.tables, pattern);
    sort(drawn);
    const std::uint32_t bits_here = block.bits_here();
    if (block.share == 0) block.set_count(bits_here - positions_below(drawn, bits_here));
    with_words(block.tensor, [&](const auto& words) { flip_share(block, words, drawn); });
}

/// Writes old words back, the last flip first, so that a word ends with its value before the first
/// flip.
template <class Word>
__device__ void restore_slots(const DeviceTensor& tensor, const std::uint32_t* element,
                              const Word* before, std::uint64_t first, std::uint64_t end) {
    auto* const memory = reinterpret_cast<Word*>(tensor.address);
    for (std::uint64_t place = end; place-- > first;) memory[element[place]] = before[place];
}

/// The flips of a word that lie in the slots of several threads are adjacent: only the thread of
/// the first one writes the word.
__device__ inline void skip_words_of_others(const std::uint32_t* element, std::uint64_t block_begin,
                                            std::uint64_t& first, std::uint64_t end) {
    while (first > block_begin && first < end && element[first] == element[first - 1]) ++first;
}

/// Uses one thread for each block, or for each share of its slots if the law is inverted.
__global__ void __launch_bounds__(restore_threads)
    restore_drawn_kernel(const DeviceTensor* tensors, std::uint32_t count, TrialMemory memory,
                         std::uint64_t threads) {
    const std::uint64_t thread = thread_number();
    if (thread >= threads) return;
    const auto* const laws = reinterpret_cast<const DeviceLaw*>(memory.tables);
    const std::uint32_t number = tensor_of(laws, count, &DeviceLaw::first_restorer, thread);
    const DeviceTensor& tensor = tensors[number];
    if (tensor.address == 0) return;  // its memory is gone
    const DeviceLaw& law = laws[number];
    const std::uint64_t within = thread - law.first_restorer;
    const std::uint64_t block = quotient(within, law.restore_shares);
    const std::uint64_t share = within - block * law.restore_shares;
    const std::uint64_t begin = block * law.slots;
    const std::uint64_t flips =
        reinterpret_cast<const std::uint32_t*>(memory.address + law.counts)[block];
    std::uint64_t first = begin, end = begin + flips;
    const auto* const element =
        reinterpret_cast<const std::uint32_t*>(memory.address + law.element);
    if (law.restore_shares > 1) {
        first += share * slots_per_share;
        if (first >= end) return;
        if (end - first > slots_per_share) end = first + slots_per_share;
        skip_words_of_others(element, begin, first, end);
    }
    const std::uintptr_t before = memory.address + law.before;
    switch (tensor.word_bytes) {
        case 1:
            return restore_slots(tensor, element, reinterpret_cast<const std::uint8_t*>(before),
                                 first, end);
        case 2:
            return restore_slots(tensor, element, reinterpret_cast<const std::uint16_t*>(before),
                                 first, end);
        case 4:
            return restore_slots(tensor, element, reinterpret_cast<const std::uint32_t*>(before),
                                 first, end);
        default:
            return restore_slots(tensor, element, reinterpret_cast<const std::uint64_t*>(before),
                                 first, end);
    }
}

}  // namespace proact::cuda
