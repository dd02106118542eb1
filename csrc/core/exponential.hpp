// 2^x without branches, tables or library calls, so that vectors of it are as good as one.
//
// x = n + f with n an integer and |f| <= 1/2, so 2^x = 2^n 2^f. 2^f is a polynomial with p(0) = 1
// (whole powers come out exact) whose largest relative error over |f| <= 1/2 is the smallest
// possible (Remez' algorithm): 2.6e-9 for float and 1.8e-17 for double, where half a unit in the
// last place is 3e-8 and 5.6e-17. 2^n is added to the polynomial's exponent.
#pragma once

#include "simd_traits.hpp"

namespace proact {

template <class Real>
struct ExponentialConstants;

template <>
struct ExponentialConstants<float> {
    static constexpr int mantissa_bits = 23;
    static constexpr float lowest = -127.0f;                // its exponent is that of 0
    static constexpr float highest = 128.0f;                // its exponent is that of infinity
    static constexpr float round_to_integer = 12582912.0f;  // 1.5 * 2^23: pushes fractions out
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

/// 2^x: at most 2 units in the last place off where it is a normal number, at most the smallest
/// normal number off below that, infinity from 2^128 (2^1024) on. NaN gives infinity.
template <class Value>
PROACT_ELEMENTWISE Value exponential2(Value x) {
    using L = SimdTraits<Value>;
    using Real = typename L::Real;
    using Constants = ExponentialConstants<Real>;

    x = L::maximum(L::minimum(x, L::all(Constants::highest)), L::all(Constants::lowest));
    // The sum's low bits are n in two's complement, and the shift drops all others.
    const Value shifted = x + Constants::round_to_integer;
    const Value fraction = x - (shifted - Constants::round_to_integer);
    const typename L::Bits exponent = L::bits(shifted) << Constants::mantissa_bits;
    return L::from_bits(L::bits(exp2_polynomial(fraction, Real{})) + exponent);
}

}  // namespace proact
