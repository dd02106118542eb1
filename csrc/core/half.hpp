// Conversion between stored float16 or bfloat16 words and float. Rounding is to nearest, ties to
// even (IEEE 754).
#pragma once

#include <cstdint>

#include "simd_traits.hpp"

namespace proact {

struct Float16 {
    std::uint16_t word;
    static constexpr std::uint16_t infinity = 0x7c00;

    template <class Value>
    PROACT_ELEMENTWISE static Value widened(typename SimdTraits<Value>::Bits word) {
        using L = SimdTraits<Value>;
        using Bits = typename L::Bits;
        const Bits magnitude = (word & 0x7fffu) << 13;
        // Interpreted as a float, the word has exponent bias 127 instead of 15. The multiplication
        // corrects the bias; it is exact and also normalizes subnormal numbers.
        const Bits finite = L::bits(L::from_bits(magnitude) * 0x1p112f);
        const Bits value = L::choose(magnitude < L::all_bits(0x7c00u << 13), finite,
                                     magnitude | L::all_bits(0x7f800000u));
        return L::from_bits(value | ((word & 0x8000u) << 16));
    }

    template <class Value>
    PROACT_ELEMENTWISE static typename SimdTraits<Value>::Bits narrowed(Value value) {
        using L = SimdTraits<Value>;
        using Bits = typename L::Bits;
        const Bits bits = L::bits(value);
        const Bits magnitude = bits & 0x7fffffffu;
        const Bits tie_to_even = (magnitude >> 13) & 1u;
        const Bits normal = (magnitude - 0x37fff001u + tie_to_even) >> 13;  // bias 127 to 15
        // The last place of 0.5f equals that of a subnormal float16, so the addition rounds
        // correctly.
        const Bits denormal = L::bits(L::from_bits(magnitude) + 0.5f) - 0x3f000000u;
        Bits word = L::choose(magnitude < L::all_bits(0x38800000u), denormal, normal);
        word = L::choose(magnitude < L::all_bits(0x477ff000u), word, L::all_bits(0x7c00u));
        word = L::choose(magnitude > L::all_bits(0x7f800000u), L::all_bits(0x7e00u), word);
        return word | ((bits >> 16) & 0x8000u);
    }
};

struct BFloat16 {
    std::uint16_t word;
    static constexpr std::uint16_t infinity = 0x7f80;

    template <class Value>
    PROACT_ELEMENTWISE static Value widened(typename SimdTraits<Value>::Bits word) {
        return SimdTraits<Value>::from_bits(word << 16);
    }

    template <class Value>
    PROACT_ELEMENTWISE static typename SimdTraits<Value>::Bits narrowed(Value value) {
        using L = SimdTraits<Value>;
        using Bits = typename L::Bits;
        const Bits bits = L::bits(value);
        const Bits rounded = (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;
        return L::choose((bits & 0x7fffffffu) > L::all_bits(0x7f800000u), L::all_bits(0x7fc0u),
                         rounded);
    }
};

/// The type in which an element is computed, with the conversions from and to memory, and the bits
/// of an element as an integer.
template <class Element>
struct Arithmetic {
    using Real = Element;
    using Bits = typename SimdTraits<Element>::Bits;
    PROACT_ELEMENTWISE static Real load(Element value) { return value; }
    PROACT_ELEMENTWISE static Element store(Real value) { return value; }
    PROACT_ELEMENTWISE static Bits bits(Element value) { return SimdTraits<Element>::bits(value); }
    PROACT_ELEMENTWISE static Element from_bits(Bits bits) {
        return SimdTraits<Element>::from_bits(bits);
    }
};

template <class Half>
struct HalfArithmetic {
    using Real = float;
    using Bits = std::uint16_t;
    PROACT_ELEMENTWISE static Bits bits(Half half) { return half.word; }
    PROACT_ELEMENTWISE static Half from_bits(Bits bits) { return {bits}; }
    PROACT_ELEMENTWISE static float load(Half half) {
        return Half::template widened<float>(half.word);
    }
    PROACT_ELEMENTWISE static Half store(float value) {
        return {static_cast<std::uint16_t>(Half::narrowed(value))};
    }
};

template <>
struct Arithmetic<Float16> : HalfArithmetic<Float16> {};
template <>
struct Arithmetic<BFloat16> : HalfArithmetic<BFloat16> {};

}  // namespace proact
