// HyReLU for one element: the clipped activation of "ProAct: Progressive Training for Hybrid
// Clipped Activation Function to Enhance Resilience of DNNs", arXiv 2406.06313, section III, and
// the two hard-clipping rules used for deployment and comparison.
//
//   soft      y = max(0, x s),  s = sigmoid(k (T - x));
//             dy/dx = s - k x s (1 - s),  dy/dT = k x s (1 - s)   for x > 0
//   zero      y = x for 0 < x <= T, else 0
//   saturate  y = min(max(x, 0), T)
//
// Non-finite inputs never pass: they give 0, except that +inf gives a finite T in saturate mode. A
// faulty threshold is allowed: NaN or a negative T gives 0 everywhere, and +inf gives a plain ReLU.
//
// The functions are branch-free. The soft mode also works on SIMD vectors.
#pragma once

#include <cstddef>
#include <limits>

#include "exponential.hpp"
#include "half.hpp"
#include "host_device.hpp"

namespace proact {

enum class HyReluMode : int { soft = 0, zero = 1, saturate = 2 };

/// A dense tensor in memory order, indexed as x[sample][threshold][inner]. A scalar threshold has
/// thresholds = 1. Per-channel thresholds have inner = height * width, or inner = 1 for
/// channels-last. Per-neuron thresholds have inner = 1.
struct HyReluShape {
    std::size_t samples;
    std::size_t thresholds;
    std::size_t inner;

    PROACT_HOST_DEVICE std::size_t elements() const { return samples * thresholds * inner; }
};

// Variables, because device code can use a constexpr value but cannot call std::numeric_limits.
template <class Real>
constexpr Real largest_finite = std::numeric_limits<Real>::max();
template <class Real>
constexpr Real positive_infinity = std::numeric_limits<Real>::infinity();

template <class Value>
struct HyReluGradient {
    Value x;
    Value threshold;
};

/// The steepness k of the soft gate, as k (`natural`) and k log2(e) (`binary`): exp(k d) =
/// 2^(binary d), which saves a multiplication per element.
template <class Real>
struct Slope {
    Real natural;
    Real binary;

    static Slope of(double k) {
        constexpr double log2_e = 1.4426950408889634;
        const auto finite = [](double value) {  // with an infinite k, 0 * k would be NaN at x = T
            return value < static_cast<double>(largest_finite<Real>) ? static_cast<Real>(value)
                                                                     : largest_finite<Real>;
        };
        return {finite(k), finite(k * log2_e)};
    }
};

/// For a <= gate_is_one the gate 1 / (1 + 2^a) rounds to 1, and dy/dT is taken to be 0.
template <class Real>
constexpr Real gate_is_one = sizeof(Real) == 4 ? Real{-25} : Real{-54};

/// Returns the threshold that the soft mode computes with; -inf gives 0 everywhere.
template <class Real>
PROACT_ELEMENTWISE Real usable_threshold(Real threshold) {
    return threshold >= 0 ? threshold : -positive_infinity<Real>;
}

/// Returns y for a usable threshold. The maximum keeps only positive values: x <= 0 gives y <= 0,
/// and the gate is 0 for a threshold of -inf or an infinite x, so that y is 0 or NaN.
template <class Value>
PROACT_ELEMENTWISE Value soft_hyrelu(Value x, Value threshold,
                                     Slope<typename SimdTraits<Value>::Real> slope) {
    const Value y = x / (exponential2((x - threshold) * slope.binary) + 1);
    return SimdTraits<Value>::maximum(y, SimdTraits<Value>::all(0));
}

/// Returns the derivatives of y times the incoming gradient, for a usable threshold.
template <class Value>
PROACT_ELEMENTWISE HyReluGradient<Value> soft_hyrelu_gradient(
    Value grad, Value x, Value threshold, Slope<typename SimdTraits<Value>::Real> slope) {
    using L = SimdTraits<Value>;
    const Value exponent = (x - threshold) * slope.binary;
    const Value e = exponential2(exponent);
    const Value s = L::all(1) / (e + 1);
    // x > 0 and s > 0; s is 0 if x is NaN. GCC 12 computes the conjunction of two comparisons of
    // 64-byte vectors number by number.
    const auto open = L::minimum(x, s) > L::all(0);
    // 1 - s = e s avoids the cancellation for s close to 1.
    const Value one_minus_s = L::where(exponent > L::all(gate_is_one<typename L::Real>), e * s);
    const Value dy_dt = L::where(open, s * one_minus_s * x * slope.natural);
    const Value passed = L::where(open, grad);
    return {passed * (s - dy_dt), passed * dy_dt};
}

/// Saturate mode stores T itself, so for half elements T is first rounded to a half.
template <HyReluMode mode, class Element>
PROACT_ELEMENTWISE typename Arithmetic<Element>::Real stored_threshold(
    typename Arithmetic<Element>::Real threshold) {
    using A = Arithmetic<Element>;
    return mode == HyReluMode::saturate ? A::load(A::store(threshold)) : threshold;
}

template <HyReluMode mode, class Real>
PROACT_ELEMENTWISE Real hyrelu(Real x, Real threshold, Slope<Real> slope) {
    if constexpr (mode == HyReluMode::soft) {
        return soft_hyrelu(x, usable_threshold(threshold), slope);
    } else if constexpr (mode == HyReluMode::zero) {
        return ((x > 0) & (x <= threshold) & (x <= largest_finite<Real>)) ? x : Real{0};
    } else {
        const Real clipped = x < threshold ? x : threshold;
        return ((x > 0) & (threshold > 0) & (clipped <= largest_finite<Real>)) ? clipped : Real{0};
    }
}

/// At the kinks of zero and saturate, the derivative is the left one, as in torch.clamp.
template <HyReluMode mode, class Real>
PROACT_ELEMENTWISE HyReluGradient<Real> hyrelu_gradient(Real grad, Real x, Real threshold,
                                                        Slope<Real> slope) {
    if constexpr (mode == HyReluMode::soft) {
        return soft_hyrelu_gradient(grad, x, usable_threshold(threshold), slope);
    } else {
        const bool passes = (x > 0) & (x <= threshold) & (x <= largest_finite<Real>);
        const bool clipped = (x > threshold) & (threshold > 0) & (mode == HyReluMode::saturate);
        return {passes ? grad : Real{0}, clipped ? grad : Real{0}};
    }
}

}  // namespace proact
