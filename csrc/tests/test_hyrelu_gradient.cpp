// Tests the backward loops of every instruction set against the formula.
#include <cmath>
#include <cstdio>
#include <vector>

#include "hyrelu_cases.hpp"

using namespace proact;
using namespace proact::test;

namespace {

// All instruction sets round k (x - T) alike. After that, each may be off by 10.5 half units: 2.5
// of the exponential (measured), 2 of the gate, 2 of 1 - s, 4 of the products and the difference.
constexpr int ulps_between_isas = 11;

struct Sums {
    explicit Sums(std::size_t thresholds) : value(thresholds), tolerance(value), scale(value) {}
    std::vector<long double> value, tolerance, scale;
};

/// The tolerance from the errors of the elements and the additions: at most 8 additions in Real,
/// the rest in double, and the rounding of the result.
template <class Real>
Sums threshold_sums(const HyReluCase<Real>& c, const std::vector<Reference>& references) {
    const long double u = std::numeric_limits<Real>::epsilon() / 2;
    const long double double_u = std::numeric_limits<double>::epsilon() / 2;
    const auto terms = static_cast<long double>(c.x.size());
    Sums sums(c.threshold.size());
    for (std::size_t i = 0; i < references.size(); ++i) {
        const std::size_t t = c.index_of_threshold(i);
        const long double term = references[i].value.grad_threshold;
        sums.value[t] += term;
        sums.tolerance[t] +=
            references[i].tolerance.grad_threshold + std::fabs(term) * (9 * u + terms * double_u);
        sums.scale[t] += references[i].scale.grad_threshold;
    }
    return sums;
}

template <class Real>
void matches(const HyReluCase<Real>& c) {
    std::vector<Reference> references;
    for (std::size_t i = 0; i < c.x.size(); ++i) references.push_back(c.reference(i));
    const Sums sums = threshold_sums(c, references);
    const Gradients<Real> baseline = backward(Isa::baseline, c, 0);
    for (const Isa isa : available_isas()) {
        const std::string name = c.name(isa, 0);
        const Gradients<Real> got = backward(isa, c, 0);
        for (std::size_t i = 0; i < c.x.size(); ++i) {
            const Reference& r = references[i];
            CHECK_IN(name + c.element(i), within(got.x[i], r.value.grad_x, r.tolerance.grad_x));
            CHECK_IN(name + c.element(i),
                     nearly_same(got.x[i], baseline.x[i], r.scale.grad_x, ulps_between_isas));
        }
        for (std::size_t t = 0; t < c.threshold.size(); ++t) {
            CHECK_IN(name + ", threshold " + shown(t),
                     within(got.threshold[t], sums.value[t], sums.tolerance[t]));
            CHECK_IN(name + ", threshold " + shown(t),
                     nearly_same(got.threshold[t], baseline.threshold[t], sums.scale[t],
                                 ulps_between_isas));
        }

        context = c.name(isa, 1);
        const Gradients<Real> again = backward(isa, c, 0), moved = backward(isa, c, 1);
        CHECK(same_bits(again.threshold, got.threshold));
        CHECK(same_bits(moved.x, got.x));
        CHECK(same_bits(moved.threshold, got.threshold));
    }
    context.clear();
}

/// A tensor of shape (2, 3, 0) has no element to read or write; the gradient of T is 0.
template <class Real>
void nothing_is_written_without_elements() {
    for (const HyReluMode mode : modes)
        for (const Isa isa : available_isas())
            for (const HyReluShape& shape : {HyReluShape{2, 3, 0}, HyReluShape{0, 3, 2}}) {
                const HyReluCase<Real> c{mode, shape, 20, {}, {}, {1, 1, 1}};
                const std::vector<Real> x(32, 1);
                std::vector<Real> grad_x(32, -7), grad_threshold(3, -7);
                hyrelu_backward(mode, shape, x.data(), x.data(), c.threshold.data(), c.slope,
                                grad_x.data(), grad_threshold.data(), {isa, 1});
                CHECK_IN(c.name(isa, 0), grad_x == std::vector<Real>(32, -7));
                CHECK_IN(c.name(isa, 0), grad_threshold == std::vector<Real>(3, 0));
            }
}

/// For sizes that occur in training, threshold gradients are within 1e-5 of the sum of the terms in
/// double.
void threshold_gradients_of_training_size() {
    long double worst = 0;
    const HyReluShape shapes[] = {{32, 1, 4096}, {16, 16, 256}, {512, 100, 1}};
    for (const HyReluShape& shape : shapes)
        for (const HyReluMode mode : {HyReluMode::soft, HyReluMode::saturate})
            for (const bool one_sign : {true, false})
                for (const Isa isa : available_isas()) {
                    HyReluCase<float> c = make_case<float>(mode, shape, Spread::around);
                    if (one_sign)
                        for (float& g : c.grad) g = std::fabs(g);
                    std::vector<double> sum(shape.thresholds, 0.0), size(sum);
                    for (std::size_t i = 0; i < c.x.size(); ++i) {
                        const auto term = static_cast<double>(c.reference(i).value.grad_threshold);
                        sum[c.index_of_threshold(i)] += term;
                        size[c.index_of_threshold(i)] += std::fabs(term);
                    }
                    const Gradients<float> gradients = backward(isa, c, 0);
                    for (std::size_t t = 0; t < sum.size(); ++t) {
                        const double error =
                            std::fabs(static_cast<double>(gradients.threshold[t]) - sum[t]);
                        CHECK_IN(c.name(isa, 0), error <= 1e-5 * size[t]);
                        worst = std::fmax(worst, error / size[t]);
                    }
                }
    std::printf("gradient of T: at most %.2e of the sum of its terms' sizes\n",
                static_cast<double>(worst));
}

}  // namespace

int main() {
    for_each_case<float>(matches<float>);
    for_each_case<double>(matches<double>);
    nothing_is_written_without_elements<float>();
    nothing_is_written_without_elements<double>();
    threshold_gradients_of_training_size();
    return summary();
}
