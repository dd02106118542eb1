// Tests every pair of an extreme x and an extreme threshold: alone, in a run of equal elements, and
// among ordinary elements.
#include <cmath>
#include <limits>
#include <vector>

#include "hyrelu_cases.hpp"

using namespace proact;
using namespace proact::test;

namespace {

template <class Real>
std::vector<Real> magnitudes() {
    using Limits = std::numeric_limits<Real>;
    return {Real{0},
            Limits::denorm_min(),
            Limits::min(),
            Real(1e-3),
            Real(0.75),
            Real(1),
            Real(2.5),
            Real(40),
            Real(1e5),
            Real(1e8),
            Real(1e18),
            Limits::max(),
            Limits::infinity(),
            Limits::quiet_NaN()};
}

/// Every magnitude occurs with both signs.
template <class Real>
std::vector<Real> extremes() {
    std::vector<Real> all;
    for (const Real value : magnitudes<Real>()) {
        all.push_back(value);
        all.push_back(-value);
    }
    return all;
}

template <class Real>
void matches(const HyReluCase<Real>& c) {
    const long double addition = 9 * std::numeric_limits<Real>::epsilon();
    std::vector<Reference> references;
    std::vector<long double> sum(c.threshold.size(), 0), tolerance(sum);
    for (std::size_t i = 0; i < c.x.size(); ++i) {
        const Reference r = c.reference(i);
        references.push_back(r);
        const std::size_t t = c.index_of_threshold(i);
        sum[t] += r.value.grad_threshold;
        tolerance[t] += r.tolerance.grad_threshold + addition * std::fabs(r.value.grad_threshold);
    }
    for (const Isa isa : available_isas()) {
        const std::vector<Real> y = forward(isa, c, 0);
        const Gradients<Real> got = backward(isa, c, 0);
        for (std::size_t i = 0; i < y.size(); ++i) {
            const Reference& r = references[i];
            CHECK_IN(c.name(isa, 0) + c.element(i), within(y[i], r.value.y, r.tolerance.y));
            CHECK_IN(c.name(isa, 0) + c.element(i),
                     within(got.x[i], r.value.grad_x, r.tolerance.grad_x));
        }
        for (std::size_t t = 0; t < sum.size(); ++t)
            CHECK_IN(c.name(isa, 0) + c.element(t), within(got.threshold[t], sum[t], tolerance[t]));
    }
}

template <class Real>
void every_pair(HyReluMode mode, Real slope) {
    HyReluCase<Real> company{mode, {1, 0, 1}, slope, {}, {}, {}};
    for (const Real threshold : extremes<Real>())
        for (const Real x : extremes<Real>())
            for (const Real grad : {Real(0.5), Real(-0.5), Real(0)}) {
                // Here the derivative itself exceeds the largest finite number, and 0 * inf is NaN.
                if (grad == 0 && std::isfinite(x) && std::isinf(slope * x)) continue;
                matches(HyReluCase<Real>{mode, {1, 1, 1}, slope, {x}, {grad}, {threshold}});
                matches(HyReluCase<Real>{mode,
                                         {1, 1, 150},
                                         slope,
                                         std::vector<Real>(150, x),
                                         std::vector<Real>(150, grad),
                                         {threshold}});
                company.x.push_back(x);
                company.grad.push_back(grad);
                company.threshold.push_back(threshold);
                ++company.shape.thresholds;
            }
    matches(company);
}

/// The fast path for gates of 1 must hold even if there are few numbers between x and T.
template <class Real>
void near_a_large_threshold(Real slope) {
    constexpr int digits = std::numeric_limits<Real>::digits;
    for (int exponent = digits - 8; exponent < digits + 8; ++exponent) {
        const Real threshold = std::ldexp(Real(1.5), exponent);
        Real x = threshold;
        for (int step = 0; step < 300; ++step, x = std::nextafter(x, Real{0}))
            matches(HyReluCase<Real>{HyReluMode::soft, {1, 1, 1}, slope, {x}, {1}, {threshold}});
    }
}

/// Inputs that never pass must give exactly 0.
template <class Real>
void closed_neurons_give_zero() {
    using Limits = std::numeric_limits<Real>;
    for (const HyReluMode mode : modes)
        for (const Isa isa : available_isas())
            for (const Real threshold : {Limits::quiet_NaN(), -Limits::infinity(), Real(-1),
                                         -Limits::denorm_min(), Real(3), Limits::infinity()}) {
                const bool open = threshold > 0;
                std::vector<Real> x = {Limits::quiet_NaN(), -Limits::infinity(), Real(-2)};
                if (!open)
                    x.insert(x.end(), {Limits::infinity(), Real(2), Limits::max(), Real(1e-30)});
                const HyReluCase<Real> c{
                    mode, {1, 1, x.size()}, 20, x, std::vector<Real>(x.size(), 1), {threshold}};
                context = c.name(isa, 0) + ", T " + shown(threshold);
                const Gradients<Real> gradients = backward(isa, c, 0);
                for (const Real y : forward(isa, c, 0)) CHECK_EQUAL(y, Real{0});
                for (const Real g : gradients.x) CHECK_EQUAL(g, Real{0});
                CHECK_EQUAL(gradients.threshold[0], Real{0});
            }
    context.clear();
}

template <class Real>
void all() {
    for (const HyReluMode mode : modes)
        for (const Real slope : {Real(20), Real(1)}) every_pair(mode, slope);
    for (const Real slope : {Real(20), Real(1)}) near_a_large_threshold(slope);
    closed_neurons_give_zero<Real>();
}

}  // namespace

int main() {
    all<float>();
    all<double>();
    return summary();
}
