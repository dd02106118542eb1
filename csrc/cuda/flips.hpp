// Bit flips in device memory: the flips that csrc/core/fault_block.hpp draws, hence the CPU's, one
// tensor a call. All addresses are device memory.
#pragma once

#include <cstdint>
#include <stdexcept>

#include "../core/tensor_memory.hpp"
#include "runtime.hpp"

namespace proact::cuda {

/// How a log of one tensor's flips lies in the caller's memory: three arrays of [blocks][slots],
/// their beginnings in bytes from the log's. The flips of a block fill its first slots, in the
/// order in which they are made; their number stands in `counts`.
struct LogLayout {
    std::uint64_t blocks;
    std::uint64_t slots;    // as many as one block can have flips
    std::uint64_t before;   // the memory word before the flip, of word_bytes bytes
    std::uint64_t element;  // std::uint32_t
    std::uint64_t bit;      // std::uint8_t, of the stored word
    std::uint64_t bytes;    // of the whole
};

/// Throws std::invalid_argument for what kernels cannot read.
inline void check_format(const TensorMemory& memory) {
    if (!memory.is_stored_as<MemoryWords>() && !memory.is_stored_as<FixedPoint>())
        throw std::invalid_argument("GPU memory holds stored words or fixed point so far");
}

LogLayout log_layout(const TensorMemory& memory, const BlockLaw& law);

/// The blocks that a law cuts the tensor into.
std::uint64_t block_count(const TensorMemory& memory, const BlockLaw& law);

inline std::uint64_t log_bytes(const TensorMemory& memory, const BlockLaw& law) {
    return log_layout(memory, law).bytes;
}

/// Flips bits of `memory`, and writes each block's number of flips to counts (std::uint32_t each).
/// `log` is aligned to 8 bytes and has log_bytes, or is 0 for flips that nobody undoes. Throws
/// std::invalid_argument for what makes no sense, std::runtime_error for a failed launch.
void flip(const TensorMemory& memory, const BlockLaw& law, const FaultStream& fault,
          std::uintptr_t log, std::uintptr_t counts, Stream stream);

/// Writes back what stood at the flipped words before `flip`, whatever stands there now.
void restore(const TensorMemory& memory, const BlockLaw& law, std::uintptr_t log,
             std::uintptr_t counts, Stream stream);

/// Adds the counts of that many blocks to the std::uint64_t at `total`.
void add_counts(std::uintptr_t counts, std::uint64_t blocks, std::uintptr_t total, Stream stream);

}  // namespace proact::cuda
