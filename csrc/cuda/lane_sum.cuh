// Sums in shared memory in a fixed order, by all threads of a block.
#pragma once

#include "launch.cuh"

namespace proact::cuda {

/// `terms` holds, for each thread, its own term, and the block's threads are seen as
/// [lanes][columns], a few of the last ones perhaps without a place. Afterwards the sum over the
/// lanes of column c stands at terms[c], for every thread to read.
template <class Term>
__device__ void sum_lanes(Term* terms, unsigned lanes, unsigned columns) {
    const unsigned lane = threadIdx.x / columns;
    __syncthreads();
    // Halves the lanes until one is left; the middle one of an odd number waits for its turn. Every
    // thread takes every turn, because all of them must meet at the barrier.
    while (lanes > 1) {
        const unsigned kept = (lanes + 1) / 2;
        if (lane + kept < lanes) terms[threadIdx.x] += terms[threadIdx.x + kept * columns];
        lanes = kept;
        __syncthreads();
    }
}

}  // namespace proact::cuda
