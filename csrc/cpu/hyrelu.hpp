// HyReLU for dense tensors in host memory.
#pragma once

#include <cstddef>

#include "../core/hyrelu.hpp"
#include "execution.hpp"

namespace proact {

/// Computes y = hyrelu(x); y may alias x. Elements are float, double, Float16 or BFloat16. The
/// threshold of a half is a float.
template <class Element>
void hyrelu_forward(HyReluMode mode, const HyReluShape& shape, const Element* x,
                    const typename Arithmetic<Element>::Real* threshold, double slope, Element* y,
                    Execution execution = {});

/// Computes grad_x and grad_threshold. Sums are in double; their order depends on the shape only.
template <class Element>
void hyrelu_backward(HyReluMode mode, const HyReluShape& shape, const Element* grad,
                     const Element* x, const typename Arithmetic<Element>::Real* threshold,
                     double slope, Element* grad_x,
                     typename Arithmetic<Element>::Real* grad_threshold, Execution execution = {});

}  // namespace proact
