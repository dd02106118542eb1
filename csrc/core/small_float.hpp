// Floats of up to 16 bits with any numbers of exponent and mantissa bits, such as float8_e4m3.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>

#include "host_device.hpp"

namespace proact {

/// The layout of a float in memory.
template <class Real>
struct MemoryFloat;
template <>
struct MemoryFloat<float> {
    using Word = std::uint32_t;
    static constexpr std::uint32_t mantissa_bits = 23;
};
template <>
struct MemoryFloat<double> {
    using Word = std::uint64_t;
    static constexpr std::uint32_t mantissa_bits = 52;
};

/// 1 sign bit, an exponent field E and a mantissa field M of m bits. The value of a word is
/// (1 + M / 2^m) 2^(E - bias), or M / 2^m 2^(1 - bias) for E = 0. The highest E holds infinity
/// (M = 0) and NaN if the format has infinity; if it has only NaN, the word of ones is NaN.
struct SmallFloat {
    std::uint32_t exponent_bits;  // 1 to 8
    std::uint32_t mantissa_bits;
    std::int32_t bias;
    bool has_infinity;  // which needs NaN and a mantissa bit
    bool has_nan;

    PROACT_HOST_DEVICE std::uint32_t word_bits() const { return 1 + exponent_bits + mantissa_bits; }

    /// Returns the nearest word; of two equally near ones, the even one. Values beyond the largest
    /// one become infinity, or the largest one in a format without infinity. NaN becomes 0 in a
    /// format without NaN.
    template <class Real>
    PROACT_HOST_DEVICE std::uint32_t encode(Real value) const {
        // The sign is read before the conversion to double, in which a GPU drops that of NaN.
        const auto sign = static_cast<std::uint32_t>(sign_of(value)) << (word_bits() - 1);
        if (std::isnan(value)) return has_nan ? sign | nan_of(value) : 0;
        const auto wide = bits_of(static_cast<double>(value));
        const std::uint32_t infinity = exponent_mask();
        const std::uint32_t most = has_infinity ? infinity : largest();
        if (std::isinf(value)) return sign | most;
        const auto exponent = static_cast<std::int32_t>(wide >> 52 & 0x7ff) - 1023;
        // 2^last is the value of the last mantissa bit: not below that of subnormal numbers.
        const std::int32_t digits = static_cast<std::int32_t>(mantissa_bits);
        const std::int32_t last = (exponent > 1 - bias ? exponent : 1 - bias) - digits;
        const std::int32_t dropped = last - (exponent - 52);
        if (exponent == -1023 || dropped > 53) return sign;  // below half of the smallest value
        const std::uint64_t significand = (wide & ((std::uint64_t{1} << 52) - 1)) | std::uint64_t{1}
                                                                                        << 52;
        const std::uint64_t half = std::uint64_t{1} << (dropped - 1);
        // The implicit bit of the significand adds 1 to the exponent field. So does a significand
        // that is rounded up to a power of two.
        const std::int64_t field = last + digits + bias - 1;
        const std::int64_t first = field * (std::int64_t{1} << digits);
        const auto below = first + static_cast<std::int64_t>(significand >> dropped);
        const std::uint64_t rest = significand & (2 * half - 1);
        const std::int64_t word = below + (rest > half || (rest == half && (below & 1) != 0));
        return sign | (word < most ? static_cast<std::uint32_t>(word) : most);
    }

    template <class Real>
    PROACT_HOST_DEVICE Real decode(std::uint32_t word) const {
        const bool is_negative = word >> (word_bits() - 1) & 1;
        const std::uint32_t magnitude = word & (exponent_mask() | mantissa_mask());
        const std::uint32_t field = magnitude >> mantissa_bits,
                            mantissa = magnitude & mantissa_mask();
        if (has_infinity && magnitude >= exponent_mask())
            return special<Real>(is_negative, upper_bits<Real>(mantissa, mantissa_bits));
        if (!has_infinity && has_nan && magnitude == (exponent_mask() | mantissa_mask()))
            return special<Real>(is_negative, upper_bits<Real>(1, 1));  // a quiet NaN
        const std::uint32_t implicit = field != 0 ? 1u << mantissa_bits : 0;
        const std::int32_t last = static_cast<std::int32_t>(field > 1 ? field : 1) - bias -
                                  static_cast<std::int32_t>(mantissa_bits);
        const double value = static_cast<double>(mantissa + implicit) * power_of_two(last);
        return static_cast<Real>(is_negative ? -value : value);
    }

   private:
    /// Returns 2^exponent. The standard library takes several times as long.
    PROACT_HOST_DEVICE static double power_of_two(std::int32_t exponent) {
        if (exponent < -1022 || exponent > 1023) return std::ldexp(1.0, exponent);
        const std::uint64_t word = static_cast<std::uint64_t>(exponent + 1023) << 52;
        double power;
        std::memcpy(&power, &word, sizeof power);
        return power;
    }

    PROACT_HOST_DEVICE std::uint32_t mantissa_mask() const { return (1u << mantissa_bits) - 1; }
    PROACT_HOST_DEVICE std::uint32_t exponent_mask() const {
        return ((1u << exponent_bits) - 1) << mantissa_bits;
    }
    /// Returns the word of the largest finite value.
    PROACT_HOST_DEVICE std::uint32_t largest() const {
        if (has_infinity) return exponent_mask() - 1;
        return (exponent_mask() | mantissa_mask()) - (has_nan ? 1 : 0);
    }

    /// Returns the word of a positive NaN that keeps the upper bits of the payload, so that every
    /// word survives a round trip through its value.
    template <class Real>
    PROACT_HOST_DEVICE std::uint32_t nan_of(Real value) const {
        if (!has_infinity) return exponent_mask() | mantissa_mask();
        const auto payload = static_cast<std::uint32_t>(
            (payload_of(value) >> (MemoryFloat<Real>::mantissa_bits - mantissa_bits)) &
            mantissa_mask());
        return exponent_mask() | (payload != 0 ? payload : 1u << (mantissa_bits - 1));
    }

    /// Returns a mantissa with the given upper bits.
    template <class Real>
    PROACT_HOST_DEVICE static typename MemoryFloat<Real>::Word upper_bits(std::uint32_t value,
                                                                          std::uint32_t bits) {
        return static_cast<typename MemoryFloat<Real>::Word>(value)
               << (MemoryFloat<Real>::mantissa_bits - bits);
    }
    /// Returns infinity, or NaN if the mantissa is not 0.
    template <class Real>
    PROACT_HOST_DEVICE static Real special(bool is_negative,
                                           typename MemoryFloat<Real>::Word mantissa) {
        using Word = typename MemoryFloat<Real>::Word;
        const Word sign = static_cast<Word>(is_negative) << (8 * sizeof(Word) - 1);
        const Word infinity =
            (~Word{0} >> 1) & ~((Word{1} << MemoryFloat<Real>::mantissa_bits) - 1);
        const Word word = sign | infinity | mantissa;
        Real value;
        std::memcpy(&value, &word, sizeof value);
        return value;
    }

    template <class Real>
    PROACT_HOST_DEVICE static std::uint64_t payload_of(Real value) {
        return bits_of(value) &
               ((typename MemoryFloat<Real>::Word{1} << MemoryFloat<Real>::mantissa_bits) - 1);
    }
    template <class Real>
    PROACT_HOST_DEVICE static bool sign_of(Real value) {
        return bits_of(value) >> (8 * sizeof(Real) - 1) != 0;
    }
    template <class Real>
    PROACT_HOST_DEVICE static typename MemoryFloat<Real>::Word bits_of(Real value) {
        typename MemoryFloat<Real>::Word word;
        std::memcpy(&word, &value, sizeof word);
        return word;
    }
};

}  // namespace proact
