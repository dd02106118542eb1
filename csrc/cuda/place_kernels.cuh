// Kernels that flip the bits at given places and restore the old words. Each thread handles one
// word, with all of its flips.
#pragma once

#include <cstdint>

#include "flip_kernels.cuh"

namespace proact::cuda {

template <class Value>
__device__ Value* array_at(std::uintptr_t address) {
    return reinterpret_cast<Value*>(address);
}

__global__ void __launch_bounds__(restore_threads)
    flip_places_kernel(const DeviceTensor* tensors, DevicePlaces places) {
    const std::uint64_t thread = thread_number();
    if (thread == 0) *array_at<std::uint64_t>(places.is_made) = 1;
    if (thread >= places.words) return;
    const auto* const first = array_at<const std::uint32_t>(places.first);
    const std::uint32_t begin = first[thread], end = first[thread + 1];
    const std::uint32_t element = array_at<const std::uint32_t>(places.element)[begin];
    const DeviceTensor& tensor = tensors[array_at<const std::uint32_t>(places.tensor)[begin]];
    with_words(tensor, [&](const auto& words) {
        using Word = typename std::decay_t<decltype(words)>::Word;
        Word& memory = array_at<Word>(tensor.address)[element];
        Word word = memory;
        auto stored = words.encode(word, element);
        for (std::uint32_t i = begin; i < end; ++i) {
            array_at<std::uint64_t>(places.before)[i] = word;
            stored = with_bit_flipped(stored, array_at<const std::uint8_t>(places.bit)[i]);
            word = words.decode(stored, element);
        }
        memory = word;
    });
}

template <class Word>
__device__ void restore_word(const DeviceTensor& tensor, std::uint32_t element,
                             std::uint64_t before) {
    array_at<Word>(tensor.address)[element] = static_cast<Word>(before);
}

__global__ void __launch_bounds__(restore_threads)
    restore_places_kernel(const DeviceTensor* tensors, DevicePlaces places) {
    const std::uint64_t thread = thread_number();
    if (thread >= places.words || *array_at<const std::uint64_t>(places.is_made) == 0) return;
    const std::uint32_t begin = array_at<const std::uint32_t>(places.first)[thread];
    const std::uint32_t element = array_at<const std::uint32_t>(places.element)[begin];
    const std::uint64_t before = array_at<const std::uint64_t>(places.before)[begin];
    const DeviceTensor& tensor = tensors[array_at<const std::uint32_t>(places.tensor)[begin]];
    if (tensor.address == 0) return;  // its memory is gone
    switch (tensor.word_bytes) {
        case 1: return restore_word<std::uint8_t>(tensor, element, before);
        case 2: return restore_word<std::uint16_t>(tensor, element, before);
        case 4: return restore_word<std::uint32_t>(tensor, element, before);
        default: return restore_word<std::uint64_t>(tensor, element, before);
    }
}

}  // namespace proact::cuda
