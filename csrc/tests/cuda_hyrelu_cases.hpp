// Tensors for the tests of the HyReLU kernels, and the results of DESIGN 2.1 in long double.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <random>
#include <string>
#include <vector>

#include "../cuda/hyrelu.hpp"
#include "check.hpp"

namespace proact::test {

constexpr HyReluMode modes[] = {HyReluMode::soft, HyReluMode::zero, HyReluMode::saturate};
constexpr double steepness = 20;

template <class Element>
using RealOf = typename Arithmetic<Element>::Real;

template <class Element>
Element element_of(double value) {
    return Arithmetic<Element>::store(static_cast<RealOf<Element>>(value));
}

template <class Element>
RealOf<Element> value_of(Element element) {
    return Arithmetic<Element>::load(element);
}

/// Bitwise equality, with NaN equal to NaN.
template <class Value>
bool same_bits(const Value* a, const Value* b, std::size_t size) {
    return size == 0 || std::memcmp(a, b, size * sizeof(Value)) == 0;
}

/// A buffer that starts `offset` elements after a pack boundary, with guards around it.
template <class Value>
class Buffer {
   public:
    explicit Buffer(std::size_t size, std::size_t offset = 0)
        : size_(size), begin_(front + offset), all_(front + offset + size + back) {
        std::memset(all_.data(), 0xa5, all_.size() * sizeof(Value));
    }
    Buffer(const std::vector<Value>& values, std::size_t offset) : Buffer(values.size(), offset) {
        std::copy(values.begin(), values.end(), data());
    }
    Value* data() { return all_.data() + begin_; }
    bool guards_are_whole() const {
        const auto* bytes = reinterpret_cast<const std::uint8_t*>(all_.data());
        for (std::size_t i = 0; i < all_.size() * sizeof(Value); ++i)
            if ((i < begin_ * sizeof(Value) || i >= (begin_ + size_) * sizeof(Value)) &&
                bytes[i] != 0xa5)
                return false;
        return true;
    }

   private:
    static constexpr std::size_t front = 16 / sizeof(Value), back = 8;
    std::size_t size_, begin_;
    std::vector<Value> all_;
};

template <class Element>
struct KernelCase {
    HyReluMode mode;
    HyReluShape shape;
    std::vector<Element> x, grad;
    std::vector<RealOf<Element>> threshold;

    std::size_t threshold_index(std::size_t i) const { return i / shape.inner % shape.thresholds; }
    RealOf<Element> threshold_of(std::size_t i) const { return threshold[threshold_index(i)]; }
    std::string name() const {
        return "mode " + shown(static_cast<int>(mode)) + ", bytes " + shown(sizeof(Element)) +
               ", shape " + shown(shape.samples) + " x " + shown(shape.thresholds) + " x " +
               shown(shape.inner);
    }
};

template <class Element>
KernelCase<Element> make_case(HyReluMode mode, const HyReluShape& shape, bool special_values) {
    using Real = RealOf<Element>;
    const double infinity = std::numeric_limits<double>::infinity(), nan = std::nan("");
    const double specials[] = {nan, infinity, -infinity, 0.0, -0.0, 1e-40, 1e30, -1e30};
    KernelCase<Element> made{mode, shape, {}, {}, {}};
    std::mt19937 random(static_cast<std::uint32_t>(shape.elements() + sizeof(Element)));
    std::uniform_real_distribution<double> x(-1, 3), threshold(0.5, 2), grad(-1, 1);
    const auto pick = [&](auto& distribution, unsigned one_in) {
        const double value = distribution(random);
        return special_values && random() % one_in == 0 ? specials[random() % 8] : value;
    };
    for (std::size_t i = 0; i < shape.thresholds; ++i)
        made.threshold.push_back(static_cast<Real>(pick(threshold, 4)));
    for (std::size_t i = 0; i < shape.elements(); ++i) {
        made.x.push_back(element_of<Element>(pick(x, 8)));
        made.grad.push_back(element_of<Element>(grad(random)));
    }
    return made;
}

/// A value and the tolerance of a computed one.
struct Near {
    long double value = 0, error = 0;

    template <class Real>
    bool holds(Real got) const {
        return std::fabs(static_cast<long double>(got) - value) <= error;
    }
};

struct SoftFormula {
    Near y, grad_x, grad_threshold;
};

/// The error bound of the soft mode for moderate x > 0 and T >= 0. Let u be half a unit in the last
/// place, relative, and a = k (x - T). The exponent a carries 3u (difference, product and
/// constant). Its exponential therefore carries e_error = 3u |a| + 4u, with 2 units in the last
/// place of its own. The gate s carries e_error (1 - s) plus 2u from the addition and the division.
/// k x s (1 - s) has two factors s, one exponential and four products. The kernels may return 0 for
/// it if it is below 2^-25 (2^-54 for double).
template <class Real>
SoftFormula soft_formula(Real grad, Real x, Real threshold) {
    using Limits = std::numeric_limits<Real>;
    const long double u = 1.01L * Limits::epsilon() / 2;  // allow for products of errors
    const long double tiny = Limits::min();
    const long double k = steepness, v = x, g = grad;
    const long double a = k * (v - static_cast<long double>(threshold));
    const long double s = 1 / (1 + std::exp(a)), rest = 1 / (1 + std::exp(-a));
    const long double bend = k * v * s * rest;
    const long double e_error = (3 * std::fabs(a) + 4) * u;
    const long double s_error = e_error * rest + 2 * u;
    const bool may_be_0 = a < (sizeof(Real) == 4 ? -24.9L : -53.9L) * std::log(2.0L);
    const long double bend_error = may_be_0 ? bend : bend * (2 * s_error + e_error + 4 * u);
    const long double gate_error = s * s_error + 2 * u * (s + bend) + bend_error;
    return {{v * s, v * s * (s_error + u) + tiny * (1 + v)},
            {g * (s - bend), std::fabs(g) * gate_error + tiny * (1 + k * v)},
            {g * bend, std::fabs(g) * (bend_error + u * bend) + tiny * (1 + k * v)}};
}

}  // namespace proact::test
