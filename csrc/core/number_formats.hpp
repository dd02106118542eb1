// The mapping between numbers in memory and the words that the studied device would store. Memory
// holds the numbers that the model computes with; a fault flips a bit of the corresponding stored
// word.
#pragma once

#include <cmath>
#include <cstdint>
#include <variant>

#include "fixed_point.hpp"
#include "half.hpp"
#include "host_device.hpp"
#include "scaled.hpp"
#include "simd_traits.hpp"
#include "small_float.hpp"

namespace proact {

/// Memory holds the stored words themselves.
struct MemoryWords {};

/// Memory is neither read nor written: flips are drawn, and the caller applies them.
struct Unread {
    std::uint32_t word_bits;
};

/// Converts a NaN to a narrower format by keeping the upper bits of its payload, as the conversion
/// instructions do, but sets the quiet bit only if no payload bit is left. Every narrow word
/// therefore survives a round trip through its wide value, and flips that produce NaN can be
/// undone.
template <class Narrow, class Wide>
PROACT_HOST_DEVICE Narrow narrowed_nan(Wide word, std::uint32_t mantissa_bits) {
    constexpr std::uint32_t wide_mantissa = sizeof(Wide) == 4 ? 23 : 52;
    constexpr std::uint32_t narrow_bits = 8 * sizeof(Narrow);
    const std::uint32_t dropped = wide_mantissa - mantissa_bits;
    const Wide payload = word & ((Wide{1} << wide_mantissa) - 1);
    const Wide sign = word >> (8 * sizeof(Wide) - 1);
    const Narrow infinity = static_cast<Narrow>(
        ((Narrow{1} << (narrow_bits - 1 - mantissa_bits)) - 1) << mantissa_bits);
    const auto kept = static_cast<Narrow>(payload >> dropped);
    const auto quiet = static_cast<Narrow>(Narrow{1} << (mantissa_bits - 1));
    return static_cast<Narrow>((sign << (narrow_bits - 1)) | infinity | (kept != 0 ? kept : quiet));
}

/// A float stored as a half, rounded to nearest, ties to even.
template <class Half>
struct StoredHalf {
    static constexpr std::uint32_t mantissa_bits = Half::infinity == 0x7c00 ? 10 : 7;

    PROACT_HOST_DEVICE std::uint32_t encode(float value) const {
        if (!std::isnan(value)) return Half::narrowed(value);
        return narrowed_nan<std::uint16_t>(SimdTraits<float>::bits(value), mantissa_bits);
    }
    template <class Real>
    PROACT_HOST_DEVICE float decode(std::uint32_t word) const {
        static_assert(sizeof(Real) == sizeof(float));
        return Half::template widened<float>(word);
    }
};

/// A double stored as a float.
struct StoredFloat {
    PROACT_HOST_DEVICE std::uint32_t encode(double value) const {
        if (!std::isnan(value)) return SimdTraits<float>::bits(static_cast<float>(value));
        return narrowed_nan<std::uint32_t>(SimdTraits<double>::bits(value), 23);
    }
    template <class Real>
    PROACT_HOST_DEVICE double decode(std::uint32_t word) const {
        static_assert(sizeof(Real) == sizeof(double));
        const float narrow = SimdTraits<float>::from_bits(word);
        if (!std::isnan(narrow)) return static_cast<double>(narrow);
        const std::uint64_t sign = std::uint64_t{word >> 31} << 63;
        const std::uint64_t payload = std::uint64_t{word & 0x7fffffu} << 29;
        return SimdTraits<double>::from_bits(sign | 0x7ff0000000000000u | payload);
    }
};

/// The format of one element. Only scaled numbers differ from block to block.
template <class Format>
PROACT_HOST_DEVICE const Format& format_at(const Format& format, std::uint32_t) {
    return format;
}
PROACT_HOST_DEVICE inline ScaledInteger format_at(const ScaledIntegers& integers,
                                                  std::uint32_t element) {
    return integers.at(element);
}
PROACT_HOST_DEVICE inline ScaledFloat format_at(const ScaledFloats& floats, std::uint32_t element) {
    return floats.at(element);
}

using NumberFormat =
    std::variant<MemoryWords, FixedPoint, ScaledIntegers, ScaledFloats, StoredHalf<Float16>,
                 StoredHalf<BFloat16>, StoredFloat, SmallFloat, Unread>;

}  // namespace proact
