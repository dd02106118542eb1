// HyReLU over dense tensors in host memory.
#pragma once

#include <cstddef>

#include "../core/hyrelu.hpp"
#include "execution.hpp"

namespace proact {

/// y = hyrelu(x); y may be x. Elements are float, double, Float16 or BFloat16; a half's threshold
/// is a float.
template <class Element>
void hyrelu_forward(HyReluMode mode, const HyReluShape& shape, const Element* x,
                    const typename Arithmetic<Element>::Real* threshold, double slope, Element* y,
                    Execution execution = {});

/// grad_x, and grad_threshold summed in double and in an order that the shape alone decides.
template <class Element>
void hyrelu_backward(HyReluMode mode, const HyReluShape& shape, const Element* grad,
                     const Element* x, const typename Arithmetic<Element>::Real* threshold,
                     double slope, Element* grad_x,
                     typename Arithmetic<Element>::Real* grad_threshold, Execution execution = {});

}  // namespace proact
