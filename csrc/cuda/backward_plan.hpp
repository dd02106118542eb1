// How the gradient's reduction is cut: a function of the shape alone, so that the order of the sums
// and with it their bits are the same on every GPU.
//
// A CUDA block takes a few thresholds and one slab of what they are summed over. Each of its
// threads walks through elements of one threshold; the threads are seen as [lanes][columns]:
//
//   inner small   a column is one (threshold, inner) pair, adjacent columns are adjacent in memory,
//                 and the lanes share out the samples of the slab: whole stretches of memory are
//                 read, channels-last and per neuron (inner = 1) too
//   inner large   one threshold, one column, and the lanes share out its elements, which lie in
//                 runs of `inner`
#pragma once

#include <algorithm>
#include <cstddef>

#include "../core/hyrelu.hpp"

namespace proact::cuda {

struct BackwardPlan {
    HyReluShape shape;  // of the same memory; the simplest where several describe it
    bool by_runs;       // inner large
    unsigned thresholds_per_block;
    unsigned columns_per_threshold;
    unsigned lanes;
    std::size_t blocks_per_slab;
    std::size_t slabs;
    std::size_t slab;  // samples, or elements of one threshold (by_runs); the last has fewer

    PROACT_HOST_DEVICE unsigned columns() const {
        return thresholds_per_block * columns_per_threshold;
    }

    /// With one slab stage 1 writes the result itself.
    std::size_t workspace_bytes() const {
        return slabs > 1 ? slabs * shape.thresholds * sizeof(double) : 0;
    }
};

inline BackwardPlan backward_plan(HyReluShape shape, unsigned threads) {
    constexpr std::size_t enough_blocks = 2048;  // for the largest GPUs, several times over
    constexpr std::size_t least_walk = 16;       // elements a thread, to be worth its reduction
    // A slab costs 8 bytes a threshold. Of 64 elements of 2 bytes that is a 16th.
    constexpr std::size_t least_slab = 64;

    if (shape.thresholds == 1) shape = {1, 1, shape.elements()};
    BackwardPlan plan{};
    plan.shape = shape;
    const unsigned most_columns = threads / 4;  // 64 halves fill a line of the cache
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
