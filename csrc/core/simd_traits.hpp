// The few operations that C++ spells differently for one number and for a vector of them, so that
// the arithmetic in this folder is written once: for scalars, for GPU threads, and for the vectors
// of csrc/cpu/vectors.hpp.
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
    /// b where a is NaN, in both.
    PROACT_ELEMENTWISE static Real maximum(Real a, Real b) { return a > b ? a : b; }
    PROACT_ELEMENTWISE static Real minimum(Real a, Real b) { return a < b ? a : b; }
    /// 0 where the condition fails.
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
