// HyReLU, one element at a time: the clipped activation of "ProAct: Progressive Training for Hybrid
// Clipped Activation Function to Enhance Resilience of DNNs", arXiv 2406.06313, section III, and
// the two rules it is deployed and compared with.
//
//   soft      y = max(0, x s),  s = sigmoid(k (T - x));
//             dy/dx = s - k x s (1 - s),  dy/dT = k x s (1 - s)   for x > 0
//   zero      y = x for 0 < x <= T, else 0
//   saturate  y = min(max(x, 0), T)
//
// What is not finite never passes: such an x gives 0 (+inf gives a finite T under saturate). A
// faulty threshold is legal: NaN or negative closes the neuron, +inf makes it a plain ReLU.
//
// Written without branches, so that loops over these functions become vector code.
#pragma once

#include <limits>

#include "exponential.hpp"
#include "host_device.hpp"

namespace proact {

enum class HyReluMode : int { soft = 0, zero = 1, saturate = 2 };

template <class Real>
constexpr Real largest_finite = std::numeric_limits<Real>::max();

template <class Real>
struct HyReluGradient {
    Real x;
    Real threshold;
};

/// The values of x for which soft and zero can be other than 0.
template <class Real>
PROACT_ELEMENTWISE bool is_open(Real x, Real threshold) {
    return (x > 0) & (x <= largest_finite<Real>)&(threshold >= 0);
}

/// sigmoid(slope (threshold - x)). Where x and threshold differ by a huge amount the product
/// overflows to an infinity of the right sign, and the exponential stays right.
template <class Real>
PROACT_ELEMENTWISE Real gate(Real x, Real threshold, Real slope) {
    return Real{1} / (Real{1} + exponential(slope * (x - threshold)));
}

template <HyReluMode mode, class Real>
PROACT_ELEMENTWISE Real hyrelu(Real x, Real threshold, Real slope) {
    if constexpr (mode == HyReluMode::soft) {
        const Real y = x * gate(x, threshold, slope);
        return is_open(x, threshold) ? y : Real{0};
    } else if constexpr (mode == HyReluMode::zero) {
        return (x > 0) & (x <= threshold) & (x <= largest_finite<Real>) ? x : Real{0};
    } else {
        const Real clipped = x < threshold ? x : threshold;
        return (x > 0) & (threshold >= 0) & (clipped <= largest_finite<Real>) ? clipped : Real{0};
    }
}

/// The derivatives of y, times the gradient that arrives for y. At the corners of zero and saturate
/// the derivative is the one from the left, which is torch.clamp's choice too.
template <HyReluMode mode, class Real>
PROACT_ELEMENTWISE HyReluGradient<Real> hyrelu_gradient(Real grad, Real x, Real threshold,
                                                        Real slope) {
    if constexpr (mode == HyReluMode::soft) {
        const Real e = exponential(slope * (x - threshold));
        const Real s = Real{1} / (Real{1} + e);
        // 1 - s, without the cancellation where s is close to 1.
        const Real rest = e <= largest_finite<Real> ? e * s : Real{1};
        const Real bend = s * rest * x * slope;  // s * rest first: it is 0 for a huge x
        const bool open = is_open(x, threshold);
        return {open ? grad * (s - bend) : Real{0}, open ? grad * bend : Real{0}};
    } else if constexpr (mode == HyReluMode::zero) {
        const bool passes = (x > 0) & (x <= threshold) & (x <= largest_finite<Real>);
        return {passes ? grad : Real{0}, Real{0}};
    } else {
        const bool passes = (x > 0) & (x <= threshold) & (x <= largest_finite<Real>);
        const bool clipped = (x > threshold) & (threshold > 0);
        return {passes ? grad : Real{0}, clipped ? grad : Real{0}};
    }
}

}  // namespace proact
