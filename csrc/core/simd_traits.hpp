// Operations that C++ spells differently for scalars and for SIMD vectors. With them, the
// arithmetic in this folder is written once for scalars, GPU threads and the vectors of
// csrc/cpu/vectors.hpp.
#pragma once

#include <cstdint>
#include <cstring>

#include "host_device.hpp"

namespace proact {

template <class Value>
struct SimdTraits;

template <class Real_, class Bits_>
struct ScalarLanes {
    using Real = Real_;
    using Bits = Bits_;  // unsigned, as wide as Real

    PROACT_ELEMENTWISE static Real all(Real value) { return value; }
    PROACT_ELEMENTWISE static Bits all_bits(Bits bits) { return bits; }
    /// Both return b if either argument is NaN.
    PROACT_ELEMENTWISE static Real maximum(Real a, Real b) { return a > b ? a : b; }
    PROACT_ELEMENTWISE static Real minimum(Real a, Real b) { return a < b ? a : b; }
    /// Returns 0 where the condition is false.
    PROACT_ELEMENTWISE static Real where(bool condition, Real value) {
        return condition ? value : Real{0};
    }
    PROACT_ELEMENTWISE static Bits choose(bool condition, Bits yes, Bits no) {
        return condition ? yes : no;
    }
    PROACT_ELEMENTWISE static Bits bits(Real value) {
        Bits bits;
        std::memcpy(&bits, &value, sizeof bits);
        return bits;
    }
    PROACT_ELEMENTWISE static Real from_bits(Bits bits) {
        Real value;
        std::memcpy(&value, &bits, sizeof value);
        return value;
    }
};

template <>
struct SimdTraits<float> : ScalarLanes<float, std::uint32_t> {};
template <>
struct SimdTraits<double> : ScalarLanes<double, std::uint64_t> {};

}  // namespace proact
