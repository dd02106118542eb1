// Thresholds in the representation that the vector loops use.
#pragma once

#include <cstdint>
#include <cstring>
#include <limits>
#include <type_traits>

#include "../core/hyrelu.hpp"

namespace proact {

/// The bits of an element as a signed integer. Positive floats have the order of their words, NaN
/// is above infinity, and every number with a sign bit is negative. Clipping can therefore compare
/// words without conversion.
template <std::size_t bytes>
struct WordOf;
template <>
struct WordOf<2> {
    using Type = std::int16_t;
};
template <>
struct WordOf<4> {
    using Type = std::int32_t;
};
template <>
struct WordOf<8> {
    using Type = std::int64_t;
};
template <class Element>
using Word = typename WordOf<sizeof(Element)>::Type;

template <class Element>
Word<Element> word_of(Element element) {
    Word<Element> word;
    std::memcpy(&word, &element, sizeof word);
    return word;
}

template <class Element>
constexpr bool is_half = !std::is_floating_point_v<Element>;

template <class Element>
Word<Element> infinity_word() {
    if constexpr (is_half<Element>)
        return static_cast<Word<Element>>(Element::infinity);
    else
        return word_of(std::numeric_limits<Element>::infinity());
}

/// Returns the largest element that does not exceed a non-negative value.
template <class Element>
Word<Element> word_not_above(typename Arithmetic<Element>::Real value) {
    const Element nearest = Arithmetic<Element>::store(value);
    const Word<Element> word = word_of(nearest);
    return Arithmetic<Element>::load(nearest) > value ? static_cast<Word<Element>>(word - 1) : word;
}

template <class Element>
struct PreparedThreshold {
    using Real = typename Arithmetic<Element>::Real;

    /// The usable threshold in soft mode, otherwise the stored threshold.
    Real value;
    /// The meaning depends on the mode. zero: the largest element that passes. saturate: the
    /// element to saturate at. soft: the gate is exactly 1 for elements up to this one. Elements <=
    /// 0 need no limit.
    Word<Element> limit;

    template <HyReluMode mode>
    static PreparedThreshold of(Real threshold, Slope<Real> slope) {
        using W = Word<Element>;
        const bool open = threshold > 0;  // at T = 0 only 0 passes
        if constexpr (mode == HyReluMode::soft) {
            const Real usable = usable_threshold(threshold);
            // The limit lies slightly below the point where the gate becomes 1, and one element
            // further down, so that rounding cannot let an element with another gate pass.
            constexpr Real margin = gate_is_one<Real> * Real(1.00001);
            const Real far = usable + margin / slope.binary;
            const W word = word_not_above<Element>(far > 0 ? far : Real{0});
            return {usable, static_cast<W>(word > 0 ? word - 1 : 0)};
        } else if constexpr (mode == HyReluMode::zero) {
            const auto largest = static_cast<W>(infinity_word<Element>() - 1);
            const W word = word_not_above<Element>(open ? threshold : Real{0});
            return {threshold, word < largest ? word : largest};
        } else {
            const Real stored = stored_threshold<HyReluMode::saturate, Element>(threshold);
            return {stored, word_of(Arithmetic<Element>::store(open ? threshold : Real{0}))};
        }
    }

    static PreparedThreshold of(HyReluMode mode, Real threshold, Slope<Real> slope) {
        switch (mode) {
            case HyReluMode::soft: return of<HyReluMode::soft>(threshold, slope);
            case HyReluMode::zero: return of<HyReluMode::zero>(threshold, slope);
            default: return of<HyReluMode::saturate>(threshold, slope);
        }
    }
};

}  // namespace proact
