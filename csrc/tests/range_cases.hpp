// Tensors with faults at known elements, and the result of a sweep by definition.
#pragma once

#include <cmath>
#include <cstring>
#include <limits>
#include <random>
#include <string>
#include <vector>

#include "../cpu/range_sweep.hpp"
#include "guarded_buffer.hpp"

namespace proact::test {

constexpr RangeAction actions[] = {RangeAction::zero, RangeAction::saturate};

template <class Element>
constexpr Dtype dtype_of() {
    if constexpr (std::is_same_v<Element, float>) return Dtype::float32;
    if constexpr (std::is_same_v<Element, double>) return Dtype::float64;
    if constexpr (std::is_same_v<Element, Float16>) return Dtype::float16;
    if constexpr (std::is_same_v<Element, BFloat16>) return Dtype::bfloat16;
}

template <class Element>
using RealOf = typename Arithmetic<Element>::Real;

/// Bounds of one or more channels, in the type in which elements are computed.
template <class Element>
struct Bounds {
    std::vector<RealOf<Element>> low, high;
    std::uint64_t inner = 1;

    std::size_t channel(std::size_t element) const { return element / inner % low.size(); }
};

/// The definition in proact/ops/restrict_range.py.
template <class Element>
Element swept(Element element, RealOf<Element> low, RealOf<Element> high, RangeAction action) {
    using Real = RealOf<Element>;
    const Real x = Arithmetic<Element>::load(element);
    const bool x_is_finite = std::fabs(x) <= largest_element<Element>;
    const bool some_pass = low <= high && low <= largest_element<Element> &&
                           high >= -largest_element<Element>;  // false for NaN
    if (!some_pass) return Arithmetic<Element>::store(0);
    if (x_is_finite && low <= x && x <= high) return element;
    const Real nearest_to_zero = low > 0 ? low : high < 0 ? high : 0;
    const bool low_is_finite = std::fabs(low) <= largest_element<Element>;
    const bool high_is_finite = std::fabs(high) <= largest_element<Element>;
    Real result = nearest_to_zero;
    if (action == RangeAction::saturate && x < low && low_is_finite) result = low;
    if (action == RangeAction::saturate && x > high && high_is_finite) result = high;
    return Arithmetic<Element>::store(result);
}

template <class Element>
BoundedMemory memory_of(Element* x, std::size_t size, const Bounds<Element>& bounds) {
    return {reinterpret_cast<std::uintptr_t>(x),
            size,
            dtype_of<Element>(),
            reinterpret_cast<std::uintptr_t>(bounds.low.data()),
            reinterpret_cast<std::uintptr_t>(bounds.high.data()),
            dtype_of<RealOf<Element>>(),
            bounds.low.size(),
            bounds.inner};
}

/// Fault-free numbers in (-1, 1).
template <class Element>
void fill_healthy(Element* x, std::size_t size, unsigned seed_of_values) {
    std::mt19937 random(seed_of_values);
    std::uniform_real_distribution<float> healthy(-0.99f, 0.99f);
    for (std::size_t i = 0; i < size; ++i)
        x[i] = Arithmetic<Element>::store(static_cast<RealOf<Element>>(healthy(random)));
}

template <class Element>
std::vector<Element> faulty_values() {
    using Limits = std::numeric_limits<RealOf<Element>>;
    std::vector<Element> all;
    for (const RealOf<Element> x :
         {RealOf<Element>(1.5), RealOf<Element>(-2), RealOf<Element>(30000), Limits::infinity(),
          -Limits::infinity(), Limits::quiet_NaN(), -Limits::quiet_NaN()})
        all.push_back(Arithmetic<Element>::store(x));
    return all;
}

}  // namespace proact::test
