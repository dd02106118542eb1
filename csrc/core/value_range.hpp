// What the bounds of trained values let pass, and what takes the place of the rest.
#pragma once

#include <limits>

#include "half.hpp"

namespace proact {

enum class RangeAction { zero, saturate };

/// The largest finite number of an element type.
template <class Element>
inline constexpr Element largest_element = std::numeric_limits<Element>::max();
template <>
inline constexpr float largest_element<Float16> = 0x1.ffcp15f;
template <>
inline constexpr float largest_element<BFloat16> = 0x1.fep127f;

/// Every finite x with low <= x <= high passes, so NaN never does. Where no x can (a fault made a
/// bound NaN or swapped the two), everything becomes 0.
///
///     zero      the number nearest to 0 that passes: 0 itself, unless all trained values are on
///     one
///               side of it (a running variance of 0 would be worse than the fault)
///     saturate  the bound that was passed, where it is finite; NaN becomes what zero gives
template <class Real>
struct ValueRange {
    Real floor, ceiling;  // finite, or NaN where nothing passes
    Real below, above;    // what takes the place of lower and of higher numbers
    Real neutral;         // and of NaN

    /// `finite` is the largest finite number of the memory that the range is for.
    static ValueRange of(Real low, Real high, Real finite, RangeAction action) {
        const Real floor = low < -finite ? -finite : low;
        const Real ceiling = high > finite ? finite : high;
        if (!(floor <= ceiling)) {
            constexpr Real nan = std::numeric_limits<Real>::quiet_NaN();
            return {nan, nan, 0, 0, 0};
        }
        const Real neutral = floor > 0 ? floor : ceiling < 0 ? ceiling : 0;
        if (action == RangeAction::zero) return {floor, ceiling, neutral, neutral, neutral};
        return {floor, ceiling, floor == low ? low : neutral, ceiling == high ? high : neutral,
                neutral};
    }

    bool passes(Real x) const { return x >= floor && x <= ceiling; }

    Real repaired(Real x) const { return x < floor ? below : x > ceiling ? above : neutral; }
};

}  // namespace proact
