// The kernel that brings values outside their trained range back into it.
#pragma once

#include <cstdint>

#include "range.hpp"
#include "sweep.cuh"

namespace proact::cuda {

template <class Element>
__device__ ValueRange<typename Arithmetic<Element>::Real> range_of(const BoundedMemory& memory,
                                                                   std::uint64_t channel,
                                                                   RangeAction action) {
    using Real = typename Arithmetic<Element>::Real;
    return ValueRange<Real>::of(bound_at<Real>(memory.low, memory.bound_dtype, channel),
                                bound_at<Real>(memory.high, memory.bound_dtype, channel),
                                largest_element<Element>, action);
}

template <class Element>
struct RangeGroup {
    using A = Arithmetic<Element>;
    using Real = typename A::Real;
    static constexpr std::uint32_t bytes = sizeof(Element), elements = group_bytes / bytes;

    const SweptGroup& group;
    const BoundedMemory& memory;
    RangeAction action;

    __device__ static Real value(const Group& words, std::uint32_t k) {
        return A::load(A::from_bits(static_cast<typename A::Bits>(words.at(k * bytes, bytes))));
    }

    /// Returns a bit for each element outside its bounds.
    __device__ std::uint32_t outside(const Group& words) const {
        std::uint32_t found = 0;
        ChannelWalk walk(group.offset / bytes, memory.channels, memory.inner);
        auto range = range_of<Element>(memory, walk.channel, action);
        for (std::uint32_t k = 0; k < elements; ++k) {
            if (k * bytes >= group.bytes) break;
            if (k != 0 && walk.step()) range = range_of<Element>(memory, walk.channel, action);
            found |= std::uint32_t{!range.passes(value(words, k))} << k;
        }
        return found;
    }

    /// Replaces the elements whose bit is set.
    __device__ void repair(const Group& words, std::uint32_t units) const {
        for (std::uint32_t k = 0; units != 0; ++k, units >>= 1) {
            if ((units & 1) == 0) continue;
            const ChannelWalk walk(group.offset / bytes + k, memory.channels, memory.inner);
            const auto range = range_of<Element>(memory, walk.channel, action);
            group.store_unit(k * bytes, A::bits(A::store(range.repaired(value(words, k)))));
        }
    }
};

__global__ void __launch_bounds__(sweep_threads)
    restrict_range_kernel(SweptMemories memories, std::uintptr_t bounds, RangeAction action,
                          DeviceSweepLog log) {
    const SweptGroup group = swept_group(memories);
    if (group.bytes == 0) return;
    const BoundedMemory& memory = reinterpret_cast<const BoundedMemory*>(bounds)[group.index];
    with_element(memory.dtype, [&](auto* type) {
        using Element = std::remove_pointer_t<decltype(type)>;
        const RangeGroup<Element> elements{group, memory, action};
        const Group words = group.load();
        const std::uint32_t outside = elements.outside(words);
        if (outside == 0) return;
        add_to_count(log, group.index, ones_of(outside));
        if (group.log_change(log, words, outside)) elements.repair(words, outside);
    });
}

}  // namespace proact::cuda
