// Bit flips in device memory. The flips are those drawn by csrc/core/fault_block.hpp, so they equal
// the flips of the CPU. One launch handles all tensors of a plan. All addresses refer to device
// memory and are aligned to 8 bytes. `tensors` is that of an array of DeviceTensor, which describes
// at least the tensors of the rate.
#pragma once

#include <cstdint>

#include "device_tensor.hpp"
#include "flip_rate.hpp"
#include "runtime.hpp"

namespace proact::cuda {

/// The memory of one trial: the tables of the rate, and rate.bytes(is_logged) bytes whose first
/// rate.bytes_to_clear() bytes were cleared.
struct TrialMemory {
    std::uintptr_t tables;
    std::uintptr_t address;
    bool is_logged;
};

/// Flips bits of all tensors. Throws Failure for a failed launch.
void flip(std::uintptr_t tensors, const FlipRate& rate, const FaultPattern& pattern,
          const TrialMemory& memory, Stream stream);

/// Writes the words from before `flip` back, regardless of the current contents of the flipped
/// words. Nothing happens if the flips were not made.
void restore(std::uintptr_t tensors, const FlipRate& rate, const TrialMemory& memory,
             Stream stream);

/// Given flips, ordered by tensor and element. `first` has one entry for each word, the other
/// arrays one for each flip.
struct DevicePlaces {
    std::uint64_t words;
    std::uint64_t flips;
    std::uintptr_t is_made;  // std::uint64_t, 0 before the flips
    std::uintptr_t before;   // std::uint64_t[flips]: the memory word just before each flip
    std::uintptr_t first;    // std::uint32_t[words + 1]: the first flip of each word, then `flips`
    std::uintptr_t element;  // std::uint32_t[flips]
    std::uintptr_t tensor;   // std::uint32_t[flips]
    std::uintptr_t bit;      // std::uint8_t[flips]: of the stored word
};

/// Returns the places whose arrays lie one after another from `address` on.
DevicePlaces device_places_at(std::uintptr_t address, std::uint64_t words, std::uint64_t flips);

/// Flips the bits at the given places and writes `before` and `is_made`.
void flip(std::uintptr_t tensors, const DevicePlaces& places, Stream stream);

/// Writes the words from before the flips back, unless the flips were not made.
void restore(std::uintptr_t tensors, const DevicePlaces& places, Stream stream);

}  // namespace proact::cuda
