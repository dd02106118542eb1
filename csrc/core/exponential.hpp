// 2^x without branches, table look-ups or library calls, so that it vectorizes.
//
// Write x = n + f with an integer n and |f| <= 1/2; then 2^x = 2^n 2^f. A polynomial p approximates
// 2^f. It satisfies p(0) = 1, so integer powers are exact. Its coefficients minimize the largest
// relative error over |f| <= 1/2 (Remez' algorithm): 2.6e-9 for float and 1.8e-17 for double, where
// half a unit in the last place is 3e-8 and 5.6e-17. The factor 2^n is added to the exponent field
// of the polynomial's value.
#pragma once

#include "simd_traits.hpp"

namespace proact {

template <class Real>
struct ExponentialConstants;

template <>
struct ExponentialConstants<float> {
    static constexpr int mantissa_bits = 23;
    static constexpr float lowest = -127.0f;                // has the exponent field of 0
    static constexpr float highest = 128.0f;                // has the exponent field of infinity
    static constexpr float round_to_integer = 12582912.0f;  // 1.5 * 2^23: rounds to an integer
};

template <>
struct ExponentialConstants<double> {
    static constexpr int mantissa_bits = 52;
    static constexpr double lowest = -1023.0;
    static constexpr double highest = 1024.0;
    static constexpr double round_to_integer = 6755399441055744.0;  // 1.5 * 2^52
};

template <class Value>
PROACT_ELEMENTWISE Value exp2_polynomial(Value f, float) {
    Value sum = f * 0.00015594678f + 0.0013406643f;
    sum = sum * f + 0.009617693f;
    sum = sum * f + 0.055503104f;
    sum = sum * f + 0.24022652f;
    sum = sum * f + 0.69314724f;
    return sum * f + 1.0f;
}

template <class Value>
PROACT_ELEMENTWISE Value exp2_polynomial(Value f, double) {
    Value sum = f * 4.078071929588336665e-10 + 7.0725704128144235096e-9;
    sum = sum * f + 1.0180647659234138888e-7;
    sum = sum * f + 1.3215442675329822143e-6;
    sum = sum * f + 0.000015252727385193868197;
    sum = sum * f + 0.0001540353044157213033;
    sum = sum * f + 0.0013333558153439964747;
    sum = sum * f + 0.0096181291076070023796;
    sum = sum * f + 0.055504108664790394552;
    sum = sum * f + 0.24022650695910098007;
    sum = sum * f + 0.69314718055994569675;
    return sum * f + 1.0;
}

/// Returns 2^x. Normal results are within 2 units in the last place; results below the normal range
/// are within the smallest normal number; x >= 128 (1024 for double) and NaN give infinity.
template <class Value>
PROACT_ELEMENTWISE Value exponential2(Value x) {
    using L = SimdTraits<Value>;
    using Real = typename L::Real;
    using Constants = ExponentialConstants<Real>;

    x = L::maximum(L::minimum(x, L::all(Constants::highest)), L::all(Constants::lowest));
    // The low bits of the sum are n in two's complement; the shift discards all other bits.
    const Value shifted = x + Constants::round_to_integer;
    const Value fraction = x - (shifted - Constants::round_to_integer);
    const typename L::Bits exponent = L::bits(shifted) << Constants::mantissa_bits;
    return L::from_bits(L::bits(exp2_polynomial(fraction, Real{})) + exponent);
}

}  // namespace proact
