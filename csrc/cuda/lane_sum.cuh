// Sums over the threads of a block in shared memory, in a fixed order.
#pragma once

#include "launch.cuh"

namespace proact::cuda {

/// `terms` holds one term per thread. The threads are indexed as [lanes][columns]; the last few may
/// lie outside. Afterwards terms[c] is the sum over the lanes of column c, visible to every thread.
template <class Term>
__device__ void sum_lanes(Term* terms, unsigned lanes, unsigned columns) {
    const unsigned lane = threadIdx.x / columns;
    __syncthreads();
    // Each step halves the number of lanes; for an odd number, the middle lane waits. Every thread
    // runs every step, because all of them must reach the barrier.
    while (lanes > 1) {
        const unsigned kept = (lanes + 1) / 2;
        if (lane + kept < lanes) terms[threadIdx.x] += terms[threadIdx.x + kept * columns];
        lanes = kept;
        __syncthreads();
    }
}

}  // namespace proact::cuda
