// Device code that sweeps share, and the kernel that undoes them.
#pragma once

#include <cstdint>

#include "launch.cuh"
#include "quotient.hpp"
#include "sweep.hpp"

namespace proact::cuda {

/// The thread of a log entry takes the lower bits, and the units of its group the upper ones.
constexpr std::uint32_t place_thread_bits = 48;

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

/// The bytes of a group. Shifts reach its units: an array indexed by a variable would lie in local
/// memory.
struct alignas(group_bytes) Group {
    std::uint64_t low, high;

    /// The `bytes` from number `first` on, a multiple of `bytes`.
    PROACT_ELEMENTWISE std::uint64_t at(std::uint32_t first, std::uint32_t bytes) const {
        return ((first < 8 ? low : high) >> (8 * (first % 8))) & ones(bytes);
    }
    PROACT_ELEMENTWISE void set(std::uint32_t first, std::uint32_t bytes, std::uint64_t value) {
        const std::uint32_t shift = 8 * (first % 8);
        const std::uint64_t kept = ~(ones(bytes) << shift), set = value << shift;
        if (first < 8)
            low = (low & kept) | set;
        else
            high = (high & kept) | set;
    }

   private:
    PROACT_ELEMENTWISE static std::uint64_t ones(std::uint32_t bytes) {
        return ~std::uint64_t{0} >> (64 - 8 * bytes);
    }
};

/// The group of a thread.
struct SweptGroup {
    std::uint64_t thread;  // number of the thread in the launch
    std::uint32_t index;   // of the memory
    std::uint32_t bytes;   // that lie within the memory; 0 for threads after its end
    std::uintptr_t address;
    std::uint64_t offset;  // in the memory
    std::uint32_t word_bytes, unit_bytes;

    /// The number of the group's first word in the memory, without a 64-bit division.
    __device__ std::uint64_t first_word() const {
        return offset / group_bytes * (group_bytes / word_bytes);
    }

    __device__ Group load() const {
        if (bytes == group_bytes && address % group_bytes == 0)
            return *reinterpret_cast<const Group*>(address);
        Group group{0, 0};
        for (std::uint32_t byte = 0; byte < bytes; byte += word_bytes)
            group.set(byte, word_bytes, load_word(address + byte, word_bytes));
        return group;
    }

    /// Writes the unit that begins with byte number `first` of the group.
    __device__ void store_unit(std::uint32_t first, std::uint64_t unit) const {
        for (std::uint32_t byte = 0; byte < unit_bytes; byte += word_bytes)
            store_word(address + first + byte, word_bytes, unit >> (8 * byte));
    }

    /// Logs the group, in which the units change whose bit is set. Returns false if the log is
    /// full, so that they must stay.
    __device__ bool log_change(const DeviceSweepLog& log, const Group& before,
                               std::uint32_t units) const {
        if (log.capacity == 0) return true;
        const std::uint64_t slot =
            atomicAdd(reinterpret_cast<unsigned long long*>(log.wanted), 1ull);
        if (slot >= log.capacity) return false;
        reinterpret_cast<Group*>(log.before)[slot] = before;
        reinterpret_cast<std::uint64_t*>(log.place)[slot] =
            std::uint64_t{units} << place_thread_bits | thread;
        return true;
    }
};

/// The number of bits that are set in a mask of units.
PROACT_ELEMENTWISE std::uint32_t ones_of(std::uint32_t units) {
    std::uint32_t count = 0;
    for (; units != 0; units &= units - 1) ++count;
    return count;
}

/// Adds to count number `index` of a sweep. Integer addition is associative, so the counts do not
/// depend on the order of the threads.
__device__ inline void add_to_count(const DeviceSweepLog& log, std::uint32_t index,
                                    std::uint32_t found) {
    if (found != 0)
        atomicAdd(reinterpret_cast<unsigned long long*>(log.counts) + index,
                  static_cast<unsigned long long>(found));
}

/// Returns the group of a thread of a sweep's launch. The threads of a block read the same
/// descriptions.
__device__ inline SweptGroup swept_group(const SweptMemories& memories, std::uint64_t thread) {
    const auto* const all = reinterpret_cast<const SweptMemory*>(memories.address);
    const std::uint64_t block = thread / sweep_threads;
    // The last memory whose first block is not above `block`: memories without bytes have none.
    std::uint32_t index = 0;
    for (std::uint32_t left = memories.count; left > 1;) {
        const std::uint32_t half = left / 2;
        if (all[index + half].first_block <= block) index += half;
        left -= half;
    }
    const SweptMemory& memory = all[index];
    const std::uint64_t offset =
        (thread - memory.first_block * sweep_threads) * std::uint64_t{group_bytes};
    const std::uint64_t left = offset < memory.bytes ? memory.bytes - offset : 0;
    return {thread,
            index,
            left < group_bytes ? static_cast<std::uint32_t>(left) : group_bytes,
            memory.address == 0 ? 0 : memory.address + offset,
            offset,
            memory.word_bytes,
            memory.unit_bytes};
}

/// Returns the group of this thread.
__device__ inline SweptGroup swept_group(const SweptMemories& memories) {
    return swept_group(memories, std::uint64_t{blockIdx.x} * sweep_threads + threadIdx.x);
}

/// The bounds' number of consecutive elements: element e has number e / inner % channels.
class ChannelWalk {
   public:
    __device__ ChannelWalk(std::uint64_t element, std::uint64_t channels, std::uint64_t inner)
        : channels_(channels), inner_(inner) {
        if (channels == 1) return;
        const std::uint64_t run = quotient(element, inner);
        left_ = inner - (element - run * inner);
        channel = run - quotient(run, channels) * channels;
    }

    /// Moves on to the next element; returns whether the channel has changed.
    __device__ bool step() {
        if (channels_ == 1 || --left_ != 0) return false;
        left_ = inner_;
        if (++channel == channels_) channel = 0;
        return true;
    }

    std::uint64_t channel = 0;

   private:
    std::uint64_t channels_, inner_, left_ = 0;
};

}  // namespace proact::cuda
