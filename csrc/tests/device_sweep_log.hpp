// The memory of a sweep's log, with guard words behind it.
#pragma once

#include <cstdint>
#include <cstring>
#include <vector>

#include "../cuda/sweep_plans.hpp"

namespace proact::test {

constexpr cuda::Stream here{0, 0};

template <class Item>
std::uintptr_t address_of(const std::vector<Item>& items) {
    return reinterpret_cast<std::uintptr_t>(items.data());
}

class SweepMemory {
   public:
    template <class Plan>
    SweepMemory(const Plan& plan, std::uint64_t capacity)
        : counts_(Plan::counts_of_memory * plan.memories().size()),
          capacity_(capacity),
          words_(cuda::sweep_log_bytes(counts_, capacity) / 8 + guards, guard) {
        std::memset(words_.data(), 0, cuda::sweep_header_bytes(counts_));
    }

    cuda::DeviceSweepLog log() const {
        return cuda::sweep_log_at(address_of(words_), counts_, capacity_);
    }
    std::uint64_t wanted() const { return words_[0]; }
    std::uint64_t count(std::size_t number) const { return words_[1 + number]; }
    bool guards_hold() const {
        for (std::size_t i = words_.size() - guards; i < words_.size(); ++i)
            if (words_[i] != guard) return false;
        return true;
    }

   private:
    static constexpr std::uint64_t guard = 0x5a5a5a5a5a5a5a5au;
    static constexpr std::size_t guards = 4;
    std::size_t counts_;
    std::uint64_t capacity_;
    std::vector<std::uint64_t> words_;  // malloc aligns it to 16 bytes
};

/// Undoes a sweep of memories that have moved.
template <class Plan>
void restore_after(const Plan& plan, const SweepMemory& memory, std::uint64_t slots,
                   const std::vector<Relocation>& moved = {}) {
    const std::vector<cuda::SweptMemory> now = plan.memories().after(moved);
    cuda::restore(plan.memories().at(address_of(now)), memory.log(), slots, here);
}

}  // namespace proact::test
