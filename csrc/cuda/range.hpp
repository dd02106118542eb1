// Range restriction in device memory: the values of csrc/core/value_range.hpp, by one launch for
// all tensors of a plan. All addresses refer to device memory.
#pragma once

#include <cstdint>
#include <type_traits>

#include "../core/swept_memory.hpp"
#include "sweep.hpp"

namespace proact::cuda {

static_assert(std::is_trivially_copyable_v<BoundedMemory>, "it is uploaded as bytes");

/// Replaces the elements outside their bounds, as `RangePlan` does on the host, and adds their
/// number in each memory to its count. `bounds` is the address of a BoundedMemory for each memory.
void restrict_range(const SweptMemories& memories, std::uintptr_t bounds, RangeAction action,
                    const DeviceSweepLog& log, Stream stream);

}  // namespace proact::cuda
