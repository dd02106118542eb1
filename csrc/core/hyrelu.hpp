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
// Written without branches; soft for vectors too.
#pragma once

#include <cstddef>
#include <limits>

#include "exponential.hpp"
#include "half.hpp"
#include "host_device.hpp"

namespace proact {

enum class HyReluMode : int { soft = 0, zero = 1, saturate = 2 };

/// A dense tensor in memory order, seen as x[sample][threshold][inner]: a scalar threshold has
/// thresholds = 1, one per channel has inner = height * width (or, channels-last, inner = 1), one
/// per neuron has inner = 1.
struct HyReluShape {
    std::size_t samples;
    std::size_t thresholds;
    std::size_t inner;

    PROACT_HOST_DEVICE std::size_t elements() const { return samples * thresholds * inner; }
};

// Constants: device code may use their values, but not call std::numeric_limits.
template <class Real>
constexpr Real largest_finite = std::numeric_limits<Real>::max();
template <class Real>
constexpr Real positive_infinity = std::numeric_limits<Real>::infinity();

template <class Value>
struct HyReluGradient {
    Value x;
    Value threshold;
};

/// The steepness k of the soft gate. exp(k d) = 2^(binary d), with one product instead of two.
template <class Real>
struct Slope {
    Real natural;
    Real binary;

    static Slope of(double k) {
        constexpr double log2_e = 1.4426950408889634;
        const auto finite = [](double value) {  // an infinite k would make 0 * k NaN at x = T
            return value < static_cast<double>(largest_finite<Real>) ? static_cast<Real>(value)
                                                                     : largest_finite<Real>;
        };
        return {finite(k), finite(k * log2_e)};
    }
};

/// From here down, in powers of two, the gate 1 / (1 + 2^a) is exactly 1, and dy/dT counts as 0.
template <class Real>
constexpr Real gate_is_one = sizeof(Real) == 4 ? Real{-25} : Real{-54};

/// The threshold that `soft` takes: -inf closes the neuron.
template <class Real>
PROACT_ELEMENTWISE Real usable_threshold(Real threshold) {
    return threshold >= 0 ? threshold : -positive_infinity<Real>;
}

/// y for a usable threshold. The comparison lets nothing but numbers above 0 through: x <= 0 has
/// y <= 0, and the gate is 0 for a closed neuron and where x is infinite, which gives y = 0 or NaN.
template <class Value>
PROACT_ELEMENTWISE Value soft_hyrelu(Value x, Value threshold,
                                     Slope<typename SimdTraits<Value>::Real> slope) {
    const Value y = x / (exponential2((x - threshold) * slope.binary) + 1);
    return SimdTraits<Value>::maximum(y, SimdTraits<Value>::all(0));
}

/// The derivatives of y, times the gradient that arrives for y, for a usable threshold.
template <class Value>
PROACT_ELEMENTWISE HyReluGradient<Value> soft_hyrelu_gradient(
    Value grad, Value x, Value threshold, Slope<typename SimdTraits<Value>::Real> slope) {
    using L = SimdTraits<Value>;
    const Value exponent = (x - threshold) * slope.binary;
    const Value e = exponential2(exponent);
    const Value s = L::all(1) / (e + 1);
    const auto open = (x > L::all(0)) & (s > L::all(0));
    // 1 - s = e s, without the cancellation where s is close to 1.
    const Value rest = L::where(exponent > L::all(gate_is_one<typename L::Real>), e * s);
    const Value bend = L::where(open, s * rest * x * slope.natural);
    const Value passed = L::where(open, grad);
    return {passed * (s - bend), passed * bend};
}

/// Saturating stores T itself: beside half elements it is rounded to a half first.
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

/// At the corners of zero and saturate the derivative is the one from the left, which is
/// torch.clamp's choice too.
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
