#include <algorithm>

#include "hyrelu_backward.cuh"

namespace proact::cuda {
namespace {

constexpr const char* backward_name = "HyReLU backward";

template <HyReluMode mode, class Element>
void launch_backward(const BackwardPlan& plan, const Element* grad, const Element* x,
                     const RealOf<Element>* threshold, double slope, Element* grad_x,
                     RealOf<Element>* grad_threshold, double* partial, Stream stream) {
    launch(backward_name, &backward_kernel<mode, Element>,
           {plan.blocks_per_slab * plan.slabs, reduction_threads, Barriers::used}, stream, plan,
           grad, x, threshold, Slope<RealOf<Element>>::of(slope), grad_x, grad_threshold, partial);
}

template <class Real>
void add_slabs(const BackwardPlan& plan, const double* partial, Real* grad_threshold,
               Stream stream) {
    const std::size_t thresholds = plan.shape.thresholds;
    const auto columns = static_cast<unsigned>(std::min<std::size_t>(thresholds, 32));
    launch(backward_name, &add_slabs_kernel<Real>,
           {(thresholds + columns - 1) / columns, reduction_threads, Barriers::used}, stream,
           partial, plan.slabs, thresholds, columns, grad_threshold);
}

}  // namespace

std::size_t backward_workspace_bytes(const HyReluShape& shape) {
    if (shape.elements() == 0) return 0;
    return backward_plan(shape, reduction_threads).workspace_bytes();
}

template <class Element>
void hyrelu_backward(HyReluMode mode, const HyReluShape& shape, const Element* grad,
                     const Element* x, const RealOf<Element>* threshold, double slope,
                     Element* grad_x, RealOf<Element>* grad_threshold, void* workspace,
                     Stream stream) {
    if (shape.elements() == 0)
        return fill_with_zero_bytes(backward_name, grad_threshold,
                                    shape.thresholds * sizeof(RealOf<Element>), stream);

    const BackwardPlan plan = backward_plan(shape, reduction_threads);
    auto* partial = static_cast<double*>(workspace);
    const auto stage_1 = mode == HyReluMode::soft ? &launch_backward<HyReluMode::soft, Element>
                         : mode == HyReluMode::zero
                             ? &launch_backward<HyReluMode::zero, Element>
                             : &launch_backward<HyReluMode::saturate, Element>;
    stage_1(plan, grad, x, threshold, slope, grad_x, grad_threshold, partial, stream);
    if (plan.slabs > 1) add_slabs(plan, partial, grad_threshold, stream);
}

template void hyrelu_backward(HyReluMode, const HyReluShape&, const float*, const float*,
                              const float*, double, float*, float*, void*, Stream);
template void hyrelu_backward(HyReluMode, const HyReluShape&, const double*, const double*,
                              const double*, double, double*, double*, void*, Stream);
template void hyrelu_backward(HyReluMode, const HyReluShape&, const Float16*, const Float16*,
                              const float*, double, Float16*, float*, void*, Stream);
template void hyrelu_backward(HyReluMode, const HyReluShape&, const BFloat16*, const BFloat16*,
                              const float*, double, BFloat16*, float*, void*, Stream);

}  // namespace proact::cuda
