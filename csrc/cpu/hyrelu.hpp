// HyReLU over tensors in host memory.
#pragma once

#include <cstddef>

#include "../core/hyrelu.hpp"
#include "isa.hpp"

namespace proact {

/// A contiguous tensor seen as x[sample][threshold][inner]: a scalar threshold has thresholds = 1,
/// one per channel has inner = height * width, one per neuron has inner = 1.
struct HyReluShape {
    std::size_t samples;
    std::size_t thresholds;
    std::size_t inner;

    std::size_t elements() const { return samples * thresholds * inner; }
};

/// y = hyrelu(x); y may be x.
template <class Real>
void hyrelu_forward(Isa isa, HyReluMode mode, const HyReluShape& shape, const Real* x,
                    const Real* threshold, Real slope, Real* y);

/// grad_x, and grad_threshold summed in double and in a fixed order.
template <class Real>
void hyrelu_backward(Isa isa, HyReluMode mode, const HyReluShape& shape, const Real* grad,
                     const Real* x, const Real* threshold, Real slope, Real* grad_x,
                     Real* grad_threshold);

}  // namespace proact
