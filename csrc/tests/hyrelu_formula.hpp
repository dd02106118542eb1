// HyReLU by DESIGN 2.1 for one element in long double, with the rounding error that an
// implementation may have.
#pragma once

#include <cmath>
#include <limits>

#include "../core/hyrelu.hpp"

namespace proact::test {

struct Outcome {
    long double y = 0, grad_x = 0, grad_threshold = 0;
};

struct Reference {
    Outcome value;
    Outcome tolerance;
    Outcome scale;  // magnitude of the terms that are summed to the value
};

/// The error bound of the soft mode. Let u be half a unit in the last place, relative, and a = (x -
/// T) (k log2 e). The exponent a carries 3u, so its power of two carries 3u |a| plus 4u (2 ulp) of
/// its own. The gate s carries (1 - s) times that plus 2u, and 1 - s = e s carries s times that
/// plus 3u. Hence s (1 - s) carries (3 |a| + 9) u, and 3u more after the products. Far below T,
/// where the gate is 1, dy/dT may be 0.
template <class Real>
Reference soft_formula(Real grad, Real x, Real threshold, Real slope) {
    using Limits = std::numeric_limits<Real>;
    const long double u = Limits::epsilon() / 2;
    // A gate below the normal range may be flushed to 0.
    const long double underflow = Limits::min();
    const long double g = grad, v = x, k = slope;

    const long double a = k * (v - static_cast<long double>(threshold));
    const long double s = 1 / (1 + std::exp(a));
    const long double one_minus_s = 1 / (1 + std::exp(-a));  // 1 - s without cancellation
    const long double dy_dt = k * v * s * one_minus_s;
    const long double s_error =
        s * (one_minus_s > 0 ? one_minus_s * (3 * std::fabs(a) + 4) + 2 : 2) * u;
    const bool may_count_as_passing = a <= (sizeof(Real) == 4 ? -17.3L : -37.4L);
    const long double dy_dt_error = (dy_dt > 0 ? dy_dt * (3 * std::fabs(a) + 12) * u : 0) +
                                    (may_count_as_passing ? dy_dt : 0) +
                                    k * (v * underflow + Limits::denorm_min());

    const long double size = std::fabs(g);
    Reference result;
    result.value = {v * s, g * (s - dy_dt), g * dy_dt};
    result.scale = {v * s, size * (s + k * v * s), size * k * v * s};
    result.tolerance = {
        v * (s_error + u * s + underflow) + Limits::denorm_min(),
        size * (s_error + dy_dt_error + 2 * u * (s + dy_dt) + underflow) + Limits::denorm_min(),
        size * (dy_dt_error + u * dy_dt) + Limits::denorm_min()};
    return result;
}

template <class Real>
Reference hyrelu_formula(HyReluMode mode, Real grad, Real x, Real threshold, Real slope) {
    Reference result;
    const bool closed = std::isnan(x) || std::isnan(threshold) || threshold < 0 || !(x > 0);
    if (closed) return result;
    if (mode == HyReluMode::saturate) {
        const Real clipped = std::fmin(x, threshold);
        if (std::isinf(clipped)) return result;
        result.value.y = clipped;
        if (x <= threshold) result.value.grad_x = grad;
        if (x > threshold && threshold > 0) result.value.grad_threshold = grad;
    } else if (std::isinf(x)) {
        return result;
    } else if (mode == HyReluMode::soft) {
        return soft_formula(grad, x, threshold, slope);
    } else if (x <= threshold) {
        result.value = {x, grad, 0};
    }
    result.scale = {std::fabs(result.value.y), std::fabs(result.value.grad_x),
                    std::fabs(result.value.grad_threshold)};
    return result;
}

/// Infinity represents every number beyond the largest finite one.
template <class Real>
bool within(Real got, long double want, long double tolerance) {
    if (std::isinf(got))
        return (got > 0 ? want : -want) + tolerance >=
               static_cast<long double>(std::numeric_limits<Real>::max());
    return std::fabs(static_cast<long double>(got) - want) <= tolerance;
}

/// Compares with a tolerance of `ulps` units in the last place of the given scale.
template <class Real>
bool nearly_same(Real a, Real b, long double scale, int ulps = 4) {
    using Limits = std::numeric_limits<Real>;
    const long double distance =
        std::fabs(static_cast<long double>(a) - static_cast<long double>(b));
    return a == b || distance <= ulps * (Limits::epsilon() * scale) + Limits::min();
}

}  // namespace proact::test
