// Tensors for the tests of the HyReLU loops, and calls of the loops on memory with any alignment.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <random>
#include <string>
#include <vector>

#include "../cpu/hyrelu.hpp"
#include "check.hpp"
#include "hyrelu_formula.hpp"

namespace proact::test {

constexpr HyReluMode modes[] = {HyReluMode::soft, HyReluMode::zero, HyReluMode::saturate};

enum class Layout { scalar, channel, neuron };
constexpr Layout layouts[] = {Layout::scalar, Layout::channel, Layout::neuron};

/// The position of x relative to the thresholds: around them, far below them, or rising from below
/// to around, so that a run contains both kinds of chunks.
enum class Spread { around, below, rising };
constexpr Spread spreads[] = {Spread::around, Spread::below, Spread::rising};

/// Tests every length where it matters most; otherwise fewer, but with every remainder of a vector.
inline std::size_t step(Spread spread) { return spread == Spread::around ? 1 : 3; }

inline HyReluShape shape_of(Layout layout, std::size_t length) {
    if (layout == Layout::scalar) return {1, 1, length};
    if (layout == Layout::channel) return {2, 3, length};
    return {3, length, 1};
}

template <class Real>
struct HyReluCase {
    HyReluMode mode;
    HyReluShape shape;
    Real slope;
    std::vector<Real> x, grad, threshold;

    Real threshold_of(std::size_t i) const { return threshold[index_of_threshold(i)]; }
    std::size_t index_of_threshold(std::size_t i) const {
        return i / shape.inner % shape.thresholds;
    }
    Reference reference(std::size_t i) const {
        return hyrelu_formula(mode, grad[i], x[i], threshold_of(i), slope);
    }
    std::string name(Isa isa, std::size_t offset) const {
        return proact::name(isa) + ", mode " + shown(static_cast<int>(mode)) + ", bytes " +
               shown(sizeof(Real)) + ", shape " + shown(shape.samples) + " x " +
               shown(shape.thresholds) + " x " + shown(shape.inner) + ", slope " + shown(slope) +
               ", offset " + shown(offset);
    }
    std::string element(std::size_t i) const {
        return ", element " + shown(i) + ": x " + shown(x[i]) + ", T " + shown(threshold_of(i));
    }
};

template <class Real>
HyReluCase<Real> make_case(HyReluMode mode, const HyReluShape& shape, Spread spread,
                           Real slope = 20) {
    HyReluCase<Real> made{mode, shape, slope, {}, {}, {}};
    std::mt19937 random(static_cast<std::uint32_t>(shape.elements()));
    std::uniform_real_distribution<Real> threshold(0.5, 2), x(-1, 3), grad(-1, 1);
    const Real lift = spread == Spread::below ? 100 : 0;
    for (std::size_t i = 0; i < shape.thresholds; ++i)
        made.threshold.push_back(threshold(random) + lift);
    for (std::size_t i = 0; i < shape.elements(); ++i) {
        const Real place = static_cast<Real>(i % shape.inner) / static_cast<Real>(shape.inner);
        made.x.push_back(spread == Spread::rising ? 3 * place : x(random));
        made.grad.push_back(grad(random));
    }
    return made;
}

/// Memory of exactly the given size that starts `offset` elements after an aligned address.
template <class Real>
class Placed {
   public:
    Placed(const std::vector<Real>& values, std::size_t offset)
        : offset_(offset), memory_(offset + values.size()) {
        std::copy(values.begin(), values.end(), begin());
    }
    Placed(std::size_t size, std::size_t offset) : offset_(offset), memory_(offset + size + 1) {
        std::fill(memory_.begin(), memory_.end(), guard);
    }
    Real* data() { return memory_.data() + offset_; }
    std::vector<Real> values(std::size_t size) {
        return std::vector<Real>(begin(), begin() + static_cast<std::ptrdiff_t>(size));
    }
    /// Checks the guards and returns the output.
    std::vector<Real> output(std::size_t size) {
        CHECK_EQUAL(memory_.back(), guard);
        if (offset_ > 0) CHECK_EQUAL(memory_.front(), guard);
        return values(size);
    }

   private:
    static constexpr Real guard = Real(-12345);
    auto begin() { return memory_.begin() + static_cast<std::ptrdiff_t>(offset_); }
    std::size_t offset_;
    std::vector<Real> memory_;
};

template <class Real>
std::vector<Real> forward(Isa isa, const HyReluCase<Real>& c, std::size_t offset) {
    Placed<Real> x(c.x, offset), threshold(c.threshold, offset), y(c.x.size(), offset);
    hyrelu_forward(c.mode, c.shape, x.data(), threshold.data(), c.slope, y.data(), {isa, 1});
    return y.output(c.x.size());
}

template <class Real>
struct Gradients {
    std::vector<Real> x, threshold;
};

template <class Real>
Gradients<Real> backward(Isa isa, const HyReluCase<Real>& c, std::size_t offset) {
    Placed<Real> grad(c.grad, offset), x(c.x, offset), threshold(c.threshold, offset);
    Placed<Real> grad_x(c.x.size(), offset), grad_threshold(c.threshold.size(), offset);
    hyrelu_backward(c.mode, c.shape, grad.data(), x.data(), threshold.data(), c.slope,
                    grad_x.data(), grad_threshold.data(), {isa, 1});
    return {grad_x.output(c.x.size()), grad_threshold.output(c.threshold.size())};
}

/// Calls `match` for every mode, layout, spread and length, and for soft mode with further slopes.
template <class Real, class Match>
void for_each_case(Match match) {
    constexpr std::size_t longest = 300;  // several chunks of every instruction set and a tail
    for (const HyReluMode mode : modes)
        for (const Layout layout : layouts)
            for (const Spread spread : spreads)
                for (std::size_t length = 0; length <= longest; length += step(spread))
                    match(make_case<Real>(mode, shape_of(layout, length), spread));
    for (const Real slope : {Real(0.01), Real(1), Real(7.3), Real(1000)})
        match(make_case<Real>(HyReluMode::soft, shape_of(Layout::channel, 150), Spread::around,
                              slope));
}

template <class Real>
bool same_bits(const std::vector<Real>& a, const std::vector<Real>& b) {
    return a.size() == b.size() &&
           (a.empty() || std::memcmp(a.data(), b.data(), a.size() * sizeof(Real)) == 0);
}

}  // namespace proact::test
