// Bit flips in device memory. The flips are those drawn by csrc/core/fault_block.hpp, so they equal
// the flips of the CPU. Each call handles one tensor. All addresses refer to device memory.
#pragma once

#include <cstdint>
#include <stdexcept>

#include "../core/tensor_memory.hpp"
#include "runtime.hpp"

namespace proact::cuda {

/// The layout of one tensor's log in the caller's memory: three arrays of shape [blocks][slots].
/// Offsets are in bytes from the start of the log. The flips of a block fill its first slots in the
/// order in which they are made; `counts` holds their number.
struct LogLayout {
    std::uint64_t blocks;
    std::uint64_t slots;    // the largest number of flips in one block
    std::uint64_t before;   // offset of the memory words before the flips (word_bytes each)
    std::uint64_t element;  // offset of the elements (std::uint32_t)
    std::uint64_t bit;      // offset of the bits of the stored words (std::uint8_t)
    std::uint64_t bytes;    // size of the whole log
};

/// Throws std::invalid_argument if the kernels do not support the number format.
inline void check_format(const TensorMemory& memory) {
    if (!memory.is_stored_as<MemoryWords>() && !memory.is_stored_as<FixedPoint>())
        throw std::invalid_argument(
            "flips in device memory expect stored words or fixed point, got another number format");
}

LogLayout log_layout(const TensorMemory& memory, const BlockLaw& law);

/// Returns the number of blocks in the tensor.
std::uint64_t block_count(const TensorMemory& memory, const BlockLaw& law);

inline std::uint64_t log_bytes(const TensorMemory& memory, const BlockLaw& law) {
    return log_layout(memory, law).bytes;
}

/// Flips bits of `memory` and writes the number of flips of each block to `counts` (std::uint32_t
/// each). `log` is an address aligned to 8 bytes with log_bytes of memory, or 0 if no undo is
/// needed. Throws std::invalid_argument for invalid arguments and std::runtime_error for a failed
/// launch.
void flip(const TensorMemory& memory, const BlockLaw& law, const FaultStream& fault,
          std::uintptr_t log, std::uintptr_t counts, Stream stream);

/// Writes the words from before `flip` back, regardless of the current contents of the flipped
/// words.
void restore(const TensorMemory& memory, const BlockLaw& law, std::uintptr_t log,
             std::uintptr_t counts, Stream stream);

/// Adds the counts of `blocks` blocks to the std::uint64_t at `total`.
void add_counts(std::uintptr_t counts, std::uint64_t blocks, std::uintptr_t total, Stream stream);

}  // namespace proact::cuda
