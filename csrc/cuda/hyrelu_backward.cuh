// The gradients of HyReLU. Stage 1 writes grad_x and sums the threshold's gradient over each slab;
// stage 2 adds the slabs. See backward_plan.hpp.
#pragma once

#include <cstddef>

#include "backward_plan.hpp"
#include "hyrelu.hpp"
#include "lane_sum.cuh"
#include "launch.cuh"
#include "quotient.hpp"

namespace proact::cuda {

/// The elements that one thread visits, all with the same threshold. They are every `stride`-th
/// element of a sequence of runs of `run` elements with a gap between runs.
struct Walk {
    std::size_t at;      // index of the current element in memory
    std::size_t left;    // remaining visits
    std::size_t stride;  // step in memory, without the additional gap that some steps cross
    std::size_t within, within_stride, run, gap;

    __device__ void advance() {
        --left;
        at += stride;
        within += within_stride;
        if (within >= run) {
            within -= run;
            at += gap;
        }
    }
};

/// Returns the elements of a slab that one lane visits, for large inner.
__device__ inline Walk walk_runs(const BackwardPlan& plan, std::size_t threshold, std::size_t slab,
                                 unsigned lane) {
    const HyReluShape& shape = plan.shape;
    const std::size_t elements = shape.samples * shape.inner;
    const std::size_t begin = slab * plan.slab + lane;
    const std::size_t end =
        elements - slab * plan.slab < plan.slab ? elements : (slab + 1) * plan.slab;
    if (begin >= end) return {};
    const std::size_t sample = quotient(begin, shape.inner);
    const std::size_t samples_crossed = quotient(plan.lanes, shape.inner);
    const std::size_t within_stride = plan.lanes - samples_crossed * shape.inner;
    const std::size_t sample_size = shape.thresholds * shape.inner;
    Walk walk;
    walk.within = begin - sample * shape.inner;
    walk.at = sample * sample_size + threshold * shape.inner + walk.within;
    walk.left = (end - begin + plan.lanes - 1) / plan.lanes;
    walk.stride = samples_crossed * sample_size + within_stride;
    walk.within_stride = within_stride;
    walk.run = shape.inner;
    walk.gap = sample_size - shape.inner;
    return walk;
}

/// Returns the elements of one column of a slab that one lane visits, for small inner: one per
/// sample.
__device__ inline Walk walk_samples(const BackwardPlan& plan, std::size_t column, std::size_t slab,
                                    unsigned lane) {
    const HyReluShape& shape = plan.shape;
    const std::size_t begin = slab * plan.slab + lane;
    const std::size_t end =
        shape.samples - slab * plan.slab < plan.slab ? shape.samples : (slab + 1) * plan.slab;
    if (begin >= end) return {};
    const std::size_t sample_size = shape.thresholds * shape.inner;
    Walk walk;
    walk.at = begin * sample_size + column;
    walk.left = (end - begin + plan.lanes - 1) / plan.lanes;
    walk.stride = plan.lanes * sample_size;
    walk.within = walk.within_stride = walk.gap = 0;
    walk.run = 1;
    return walk;
}

/// Writes grad_x for the visited elements and returns the sum of the threshold's gradients.
///
/// A few elements are processed together: their loads overlap, and GPUs with slow double arithmetic
/// need only one addition of doubles for all of them.
template <HyReluMode mode, class Element>
__device__ double differentiate(Walk walk, const Element* __restrict__ grad,
                                const Element* __restrict__ x, RealOf<Element> threshold,
                                Slope<RealOf<Element>> slope, Element* __restrict__ grad_x) {
    using A = Arithmetic<Element>;
    using Real = RealOf<Element>;
    constexpr unsigned unroll = 4;
    double sum = 0;
    while (walk.left > 0) {
        const unsigned count = walk.left < unroll ? static_cast<unsigned>(walk.left) : unroll;
        std::size_t at[unroll] = {};
        Element grads[unroll] = {}, xs[unroll] = {};
        for (unsigned i = 0; i < unroll; ++i)
            if (i < count) {
                at[i] = walk.at;
                grads[i] = grad[walk.at];
                xs[i] = x[walk.at];
                walk.advance();
            }
        Real terms = 0;
        for (unsigned i = 0; i < unroll; ++i)
            if (i < count) {
                const HyReluGradient<Real> gradient =
                    hyrelu_gradient<mode>(A::load(grads[i]), A::load(xs[i]), threshold, slope);
                grad_x[at[i]] = A::store(gradient.x);
                terms += gradient.threshold;
            }
        sum += static_cast<double>(terms);
    }
    return sum;
}

/// Stage 1. `partial` has the shape [slabs][thresholds] and is not used if there is a single slab.
template <HyReluMode mode, class Element>
__global__ void __launch_bounds__(reduction_threads)
    backward_kernel(BackwardPlan plan, const Element* __restrict__ grad,
                    const Element* __restrict__ x, const RealOf<Element>* __restrict__ threshold,
                    Slope<RealOf<Element>> slope, Element* __restrict__ grad_x,
                    RealOf<Element>* __restrict__ grad_threshold, double* __restrict__ partial) {
    __shared__ double sums[reduction_threads];

    const std::size_t slab = quotient(blockIdx.x, plan.blocks_per_slab);
    const std::size_t first_threshold =
        (blockIdx.x - slab * plan.blocks_per_slab) * plan.thresholds_per_block;
    const unsigned lane = threadIdx.x / plan.columns();
    const unsigned column = threadIdx.x - lane * plan.columns();
    const std::size_t threshold_index = first_threshold + column / plan.columns_per_threshold;

    double sum = 0;
    if (lane < plan.lanes && threshold_index < plan.shape.thresholds) {
        const Walk walk =
            plan.by_runs
                ? walk_runs(plan, threshold_index, slab, lane)
                : walk_samples(plan, first_threshold * plan.shape.inner + column, slab, lane);
        sum = differentiate<mode>(walk, grad, x,
                                  stored_threshold<mode, Element>(threshold[threshold_index]),
                                  slope, grad_x);
    }
    sums[threadIdx.x] = sum;
    sum_lanes(sums, plan.lanes, plan.columns());

    const std::size_t output_index = first_threshold + threadIdx.x;
    if (threadIdx.x < plan.thresholds_per_block && output_index < plan.shape.thresholds) {
        double total = 0;
        for (unsigned i = 0; i < plan.columns_per_threshold; ++i)
            total += sums[threadIdx.x * plan.columns_per_threshold + i];
        if (plan.slabs == 1)
            grad_threshold[output_index] = static_cast<RealOf<Element>>(total);
        else
            partial[slab * plan.shape.thresholds + output_index] = total;
    }
}

/// Stage 2. The threads of a block are indexed as [reduction_threads / columns][columns]; a column
/// is a threshold.
template <class Real>
__global__ void __launch_bounds__(reduction_threads)
    add_slabs_kernel(const double* __restrict__ partial, std::size_t slabs, std::size_t thresholds,
                     unsigned columns, Real* __restrict__ grad_threshold) {
    __shared__ double sums[reduction_threads];

    const unsigned lanes = reduction_threads / columns;
    const unsigned lane = threadIdx.x / columns;
    const unsigned column = threadIdx.x - lane * columns;
    const std::size_t threshold_index = static_cast<std::size_t>(blockIdx.x) * columns + column;

    double sum = 0;
    if (lane < lanes && threshold_index < thresholds)
        for (std::size_t slab = lane; slab < slabs; slab += lanes)
            sum += partial[slab * thresholds + threshold_index];
    sums[threadIdx.x] = sum;
    sum_lanes(sums, lanes, columns);
    if (lane == 0 && threshold_index < thresholds)
        grad_threshold[threshold_index] = static_cast<Real>(sums[column]);
}

}  // namespace proact::cuda
