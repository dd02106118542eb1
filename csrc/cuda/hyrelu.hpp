// HyReLU over tensors in device memory. Element is float, double, Float16 or BFloat16; a threshold
// has the type that its elements are computed in. All pointers are device memory; a failed launch
// throws std::runtime_error.
#pragma once

#include <cstddef>

#include "../core/hyrelu.hpp"
#include "runtime.hpp"

namespace proact::cuda {

template <class Element>
using RealOf = typename Arithmetic<Element>::Real;

/// y = hyrelu(x); y may be x.
template <class Element>
void hyrelu_forward(HyReluMode mode, const HyReluShape& shape, const Element* x,
                    const RealOf<Element>* threshold, double slope, Element* y, Stream stream);

/// The size of what hyrelu_backward takes as its workspace, at most a 16th of the tensor's. May be
/// 0. A function of the shape alone, as is the order of the sums.
std::size_t backward_workspace_bytes(const HyReluShape& shape);

/// grad_x, and grad_threshold summed in a fixed order: the same bits on every GPU. An empty tensor
/// has grad_threshold 0. The results overlap nothing; the workspace is aligned to 8 bytes.
template <class Element>
void hyrelu_backward(HyReluMode mode, const HyReluShape& shape, const Element* grad,
                     const Element* x, const RealOf<Element>* threshold, double slope,
                     Element* grad_x, RealOf<Element>* grad_threshold, void* workspace,
                     Stream stream);

}  // namespace proact::cuda
