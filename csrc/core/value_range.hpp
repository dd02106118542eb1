// Range checks of trained values, and the replacements for values outside the range.
#pragma once

#include <limits>

#include "half.hpp"

namespace proact {

enum class RangeAction { zero, saturate };

/// The largest finite value of an element type, in the type it is computed in.
template <class Element>
inline constexpr Element largest_element = std::numeric_limits<Element>::max();
template <>
inline constexpr float largest_element<Float16> = 0x1.ffcp15f;
template <>
inline constexpr float largest_element<BFloat16> = 0x1.fep127f;

/// A variable, because device code cannot call the function.
template <class Real>
inline constexpr Real not_a_number = std::numeric_limits<Real>::quiet_NaN();

/// A value x passes if it is finite and low <= x <= high; NaN never passes. If no value can pass,
/// because a fault made a bound NaN or swapped the bounds, every value becomes 0. The replacements
/// are:
///
///     zero      the passing value nearest to 0. This is 0 itself unless all trained values have
///               one sign (a running variance of 0 would be worse than the fault).
///     saturate  the violated bound if it is finite, otherwise the replacement of zero; NaN gets
///               the replacement of zero.
template <class Real>
struct ValueRange {
    Real floor, ceiling;  // finite, or NaN if nothing passes
    Real below, above;    // replacements of values below floor and above ceiling
    Real neutral;         // replacement of NaN

    /// `finite` is the largest finite value of the element type in memory.
    PROACT_HOST_DEVICE static ValueRange of(Real low, Real high, Real finite, RangeAction action) {
        const Real floor = low < -finite ? -finite : low;
        const Real ceiling = high > finite ? finite : high;
        if (!(floor <= ceiling)) return {not_a_number<Real>, not_a_number<Real>, 0, 0, 0};
        const Real neutral = floor > 0 ? floor : ceiling < 0 ? ceiling : 0;
        if (action == RangeAction::zero) return {floor, ceiling, neutral, neutral, neutral};
        return {floor, ceiling, floor == low ? low : neutral, ceiling == high ? high : neutral,
                neutral};
    }

    PROACT_HOST_DEVICE bool passes(Real x) const { return x >= floor && x <= ceiling; }

    PROACT_HOST_DEVICE Real repaired(Real x) const {
        return x < floor ? below : x > ceiling ? above : neutral;
    }
};

}  // namespace proact
