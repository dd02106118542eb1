#include "range.cuh"

namespace proact::cuda {

void restrict_range(const SweptMemories& memories, std::uintptr_t bounds, RangeAction action,
                    const DeviceSweepLog& log, Stream stream) {
    launch("restricting values to their range", &restrict_range_kernel,
           Grid{memories.blocks, sweep_threads}, stream, memories, bounds, action, log);
}

}  // namespace proact::cuda
