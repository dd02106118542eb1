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
    constexpr std::size_t target_blocks = 2048;          // several waves on the largest GPUs
    constexpr std::size_t min_elements_per_thread = 16;  // to outweigh the reduction
    // A slab costs 8 bytes per threshold: 1/16 of the memory of 64 elements of 2 bytes.
    constexpr std::size_t min_slab = 64;

    if (shape.thresholds == 1) shape = {1, 1, shape.elements()};
    BackwardPlan plan{};
    plan.shape = shape;
    const unsigned max_columns = threads / 4;  // 64 half elements fill a cache line
    plan.by_runs = shape.inner > max_columns;

    std::size_t summed;
    if (plan.by_runs) {
        plan.thresholds_per_block = 1;
        plan.columns_per_threshold = 1;
        plan.lanes = threads;
        summed = shape.samples * shape.inner;
    } else {
        const auto inner = static_cast<unsigned>(shape.inner);
        plan.thresholds_per_block =
            static_cast<unsigned>(std::min<std::size_t>(shape.thresholds, max_columns / inner));
        plan.columns_per_threshold = inner;
        plan.lanes = threads / plan.columns();
        summed = shape.samples;
    }
    plan.blocks_per_slab =
        (shape.thresholds + plan.thresholds_per_block - 1) / plan.thresholds_per_block;

    const std::size_t min_summed = std::max(min_slab, min_elements_per_thread * plan.lanes);
    const std::size_t target_slabs = std::max<std::size_t>(target_blocks / plan.blocks_per_slab, 1);
    const std::size_t max_slabs = std::max<std::size_t>(summed / min_summed, 1);
    const std::size_t slabs = std::min(target_slabs, max_slabs);
    plan.slab = (summed + slabs - 1) / slabs;
    plan.slabs = (summed + plan.slab - 1) / plan.slab;
    return plan;
}

}  // namespace proact::cuda
