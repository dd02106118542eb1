// What sweeps over device memory share: the memories of a plan, which one launch sweeps, and the
// log of what a sweep replaced. All addresses refer to device memory.
#pragma once

#include <cstddef>
#include <cstdint>
#include <type_traits>

#include "runtime.hpp"

namespace proact::cuda {

/// A thread sweeps a group of adjacent bytes, which a device reads by one instruction.
constexpr std::uint32_t group_bytes = 16;
constexpr unsigned sweep_threads = 256;

/// Adjacent words in device memory. Each block of threads sweeps groups of one memory.
struct SweptMemory {
    std::uintptr_t address;  // a multiple of word_bytes; 0 if the memory no longer exists
    std::uint64_t bytes;
    std::uint64_t first_block;  // blocks of threads for the memories before
    std::uint32_t word_bytes;   // 1, 2, 4 or 8
    std::uint32_t unit_bytes;   // what changes as a whole: an element, or a codeword of whole words
};
static_assert(std::is_trivially_copyable_v<SweptMemory>, "it is uploaded as bytes");

/// An array of SweptMemory, and the number of blocks of threads for all of them.
struct SweptMemories {
    std::uintptr_t address;
    std::uint32_t count;
    std::uint64_t blocks;
};

/// The result of a sweep: counts, and the groups that it changed with their contents before.
///
/// A group that changes takes the next slot. If no slot is left, it stays unchanged, so the log can
/// undo every change. `wanted` counts all groups that take or would take a slot: if it exceeds the
/// capacity, the caller restores the log and sweeps again with `wanted` slots. Sweeping on without
/// restoring would not do, because a replacement can itself be replaced again (bounds that admit
/// no number, or replacements that rounding takes below their bound).
struct DeviceSweepLog {
    std::uintptr_t wanted;   // std::uint64_t, 0 before the sweep
    std::uintptr_t counts;   // std::uint64_t for each count, 0 before the sweep
    std::uintptr_t before;   // group_bytes for each slot
    std::uintptr_t place;    // std::uint64_t for each slot: the thread, and a bit for each unit
    std::uint64_t capacity;  // 0: changes are permanent
};

/// The size of `wanted` and the counts, with which the memory of a log begins. The caller clears
/// them before the sweep, so that restoring is correct even if the sweep was not made.
constexpr std::size_t sweep_header_bytes(std::size_t counts) {
    return (sizeof(std::uint64_t) * (1 + counts) + group_bytes - 1) / group_bytes * group_bytes;
}

/// The size of the memory of a log.
constexpr std::size_t sweep_log_bytes(std::size_t counts, std::uint64_t capacity) {
    return sweep_header_bytes(counts) + capacity * (group_bytes + sizeof(std::uint64_t));
}

/// Returns the log whose memory begins at `address`, a multiple of 16.
constexpr DeviceSweepLog sweep_log_at(std::uintptr_t address, std::size_t counts,
                                      std::uint64_t capacity) {
    const std::uintptr_t before = address + sweep_header_bytes(counts);
    return {address, address + sizeof(std::uint64_t), before, before + capacity * group_bytes,
            capacity};
}

/// Writes what a sweep replaced back, regardless of the current contents. Nothing else is written.
/// `slots` is an upper bound of the number of slots in use, at most the capacity. Throws Failure
/// for a failed launch, as do all launchers.
void restore(const SweptMemories& memories, const DeviceSweepLog& log, std::uint64_t slots,
             Stream stream);

}  // namespace proact::cuda
