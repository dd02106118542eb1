// exp(x) without branches, tables or library calls, so that loops over it become vector code.
//
// x = n ln 2 + r with |r| <= ln(2)/2, exp(x) = 2^n exp(r), and exp(r) by its Taylor polynomial,
// whose first left-out term bounds the relative error: r^8/8! < 6e-9 for float, r^14/14! < 5e-18
// for double, both below half a unit in the last place.
#pragma once

#include <cstdint>
#include <cstring>
#include <type_traits>

#include "host_device.hpp"

namespace proact {

template <class Real>
struct ExponentialConstants;

template <>
struct ExponentialConstants<float> {
    using Bits = std::int32_t;
    static constexpr int mantissa_bits = 23;
    static constexpr Bits exponent_bias = 127;
    static constexpr float lowest = -105.0f;  // gives 0, below it too
    static constexpr float highest = 89.0f;   // gives infinity, above it too
    static constexpr float log2_e = 1.44269504f;
    static constexpr float ln2_high = 0.693359375f;  // few digits: n * ln2_high is exact
    static constexpr float ln2_low = -2.12194440e-4f;
    static constexpr float round_to_integer = 12582912.0f;  // 1.5 * 2^23: pushes fractions out
};

template <>
struct ExponentialConstants<double> {
    using Bits = std::int64_t;
    static constexpr int mantissa_bits = 52;
    static constexpr Bits exponent_bias = 1023;
    static constexpr double lowest = -746.0;
    static constexpr double highest = 710.0;
    static constexpr double log2_e = 1.4426950408889634;
    static constexpr double ln2_high = 0.693145751953125;
    static constexpr double ln2_low = 1.42860682030941723212e-6;
    static constexpr double round_to_integer = 6755399441055744.0;  // 1.5 * 2^52
};

PROACT_ELEMENTWISE float exponential_polynomial(float r) {
    float sum = 1.0f / 5040.0f;
    sum = sum * r + 1.0f / 720.0f;
    sum = sum * r + 1.0f / 120.0f;
    sum = sum * r + 1.0f / 24.0f;
    sum = sum * r + 1.0f / 6.0f;
    sum = sum * r + 0.5f;
    return (sum * r + 1.0f) * r + 1.0f;
}

PROACT_ELEMENTWISE double exponential_polynomial(double r) {
    double sum = 1.0 / 6227020800.0;
    sum = sum * r + 1.0 / 479001600.0;
    sum = sum * r + 1.0 / 39916800.0;
    sum = sum * r + 1.0 / 3628800.0;
    sum = sum * r + 1.0 / 362880.0;
    sum = sum * r + 1.0 / 40320.0;
    sum = sum * r + 1.0 / 5040.0;
    sum = sum * r + 1.0 / 720.0;
    sum = sum * r + 1.0 / 120.0;
    sum = sum * r + 1.0 / 24.0;
    sum = sum * r + 1.0 / 6.0;
    sum = sum * r + 0.5;
    return (sum * r + 1.0) * r + 1.0;
}

/// 2^n for n within the exponents of normal numbers.
template <class Real>
PROACT_ELEMENTWISE Real power_of_two(typename ExponentialConstants<Real>::Bits n) {
    using Constants = ExponentialConstants<Real>;
    const typename Constants::Bits bits = (n + Constants::exponent_bias)
                                          << Constants::mantissa_bits;
    Real power;
    std::memcpy(&power, &bits, sizeof power);
    return power;
}

/// At most 2 units in the last place from exp(x); 0 far below, infinity far above. NaN gives some
/// number: the caller masks it.
template <class Real>
PROACT_ELEMENTWISE Real exponential(Real x) {
    using Constants = ExponentialConstants<Real>;
    using Bits = typename Constants::Bits;

    x = x > Constants::lowest ? x : Constants::lowest;
    x = x < Constants::highest ? x : Constants::highest;
    const Real shifted = x * Constants::log2_e + Constants::round_to_integer;
    const Real n_real = shifted - Constants::round_to_integer;
    Bits shifted_bits, offset_bits;
    const Real offset = Constants::round_to_integer;
    std::memcpy(&shifted_bits, &shifted, sizeof shifted);
    std::memcpy(&offset_bits, &offset, sizeof offset);
    const Bits n = shifted_bits - offset_bits;

    const Real r = (x - n_real * Constants::ln2_high) - n_real * Constants::ln2_low;
    // Two factors, because 2^n itself leaves the normal range where exp(x) is denormal or huge.
    // Halved as a non-negative number: AVX2 has no arithmetic shift of 64-bit integers.
    const auto n_raised = static_cast<std::make_unsigned_t<Bits>>(n + 2048);
    const Bits n_low = static_cast<Bits>(n_raised >> 1) - 1024;
    return exponential_polynomial(r) * power_of_two<Real>(n_low) * power_of_two<Real>(n - n_low);
}

}  // namespace proact
