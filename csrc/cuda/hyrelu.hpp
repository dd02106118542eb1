// HyReLU for tensors in device memory. Element is float, double, Float16 or BFloat16; a threshold
// has the type in which its elements are computed. All pointers refer to device memory. A failed
// launch throws Failure.
#pragma once

#include <cstddef>

#include "../core/hyrelu.hpp"
#include "runtime.hpp"

namespace proact::cuda {

template <class Element>
using RealOf = typename Arithmetic<Element>::Real;

/// Computes y = hyrelu(x); y may alias x.
template <class Element>
void hyrelu_forward(HyReluMode mode, const HyReluShape& shape, const Element* x,
                    const RealOf<Element>* threshold, double slope, Element* y, Stream stream);

/// Returns the size of the workspace of hyrelu_backward, at most 1/16 of the tensor's size and
/// possibly 0. The size depends on the shape only, as does the order of the sums.
std::size_t backward_workspace_bytes(const HyReluShape& shape);

/// Computes grad_x and grad_threshold. The order of the sums is fixed, so every GPU gives the same
/// bits. For an empty tensor grad_threshold is 0. The results must not overlap other memory; the
/// workspace must be aligned to 8 bytes.
template <class Element>
void hyrelu_backward(HyReluMode mode, const HyReluShape& shape, const Element* grad,
                     const Element* x, const RealOf<Element>* threshold, double slope,
                     Element* grad_x, RealOf<Element>* grad_threshold, void* workspace,
                     Stream stream);

}  // namespace proact::cuda
