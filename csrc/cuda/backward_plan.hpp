// The partition of the gradient's reduction. It is a function of the shape only, so the order of
// the sums, and with it their bits, are the same on every GPU.
//
// A CUDA block handles a few thresholds and one slab of the elements that are summed for them. Each
// thread visits elements of a single threshold. The threads of a block are indexed as
// [lanes][columns]:
//
//   inner small   A column is one (threshold, inner) pair. Adjacent columns are adjacent in memory.
//                 The lanes share the samples of the slab. Reads are contiguous, also for
//                 channels-last and per-neuron thresholds (inner = 1).
//   inner large   There is one threshold and one column. The lanes share its elements, which lie in
//                 runs of length `inner`.
#pragma once

#include <algorithm>
#include <cstddef>

#include "../core/hyrelu.hpp"

namespace proact::cuda {

struct BackwardPlan {
    HyReluShape shape;  // simplified if several shapes describe the same memory
    bool by_runs;       // inner large
    unsigned thresholds_per_block;
    unsigned columns_per_threshold;
    unsigned lanes;
    std::size_t blocks_per_slab;
    std::size_t slabs;
    std::size_t slab;  // samples, or elements of one threshold (by_runs); the last may be smaller

    PROACT_HOST_DEVICE unsigned columns() const {
        return thresholds_per_block * columns_per_threshold;
    }

    /// With a single slab, stage 1 writes the result directly.
    std::size_t workspace_bytes() const {
        return slabs > 1 ? slabs * shape.thresholds * sizeof(double) : 0;
    }
};

inline BackwardPlan backward_plan(HyReluShape shape, unsigned threads) {
    constexpr std::size_t enough_blocks = 2048;  // enough for several waves on the largest GPUs
    constexpr std::size_t least_walk = 16;       // elements per thread that outweigh the reduction
    // A slab costs 8 bytes per threshold: 1/16 of the memory of 64 elements of 2 bytes.
    constexpr std::size_t least_slab = 64;

    if (shape.thresholds == 1) shape = {1, 1, shape.elements()};
    BackwardPlan plan{};
    plan.shape = shape;
    const unsigned most_columns = threads / 4;  // 64 half elements fill a cache line
    plan.by_runs = shape.inner > most_columns;

    std::size_t summed;
    if (plan.by_runs) {
        plan.thresholds_per_block = 1;
        plan.columns_per_threshold = 1;
        plan.lanes = threads;
        summed = shape.samples * shape.inner;
    } else {
        const auto inner = static_cast<unsigned>(shape.inner);
        plan.thresholds_per_block =
            static_cast<unsigned>(std::min<std::size_t>(shape.thresholds, most_columns / inner));
        plan.columns_per_threshold = inner;
        plan.lanes = threads / plan.columns();
        summed = shape.samples;
    }
    plan.blocks_per_slab =
        (shape.thresholds + plan.thresholds_per_block - 1) / plan.thresholds_per_block;

    const std::size_t least = std::max(least_slab, least_walk * plan.lanes);
    const std::size_t wanted = std::max<std::size_t>(enough_blocks / plan.blocks_per_slab, 1);
    const std::size_t most = std::max<std::size_t>(summed / least, 1);
    const std::size_t cut = std::min(wanted, most);
    plan.slab = (summed + cut - 1) / cut;
    plan.slabs = (summed + plan.slab - 1) / plan.slab;
    return plan;
}

}  // namespace proact::cuda
