// Tests the HyReLU kernels, run on the host by csrc/cuda/host_shim.hpp: every element uses its own
// threshold and equals the result of csrc/core bit for bit, which is close to the formula; the sums
// are correct and reproducible; no other memory is written.
#include <cstdint>
#include <vector>

#include "../cuda/hyrelu_backward.cu"
#include "../cuda/hyrelu_forward.cu"
#include "check.hpp"
#include "cuda_hyrelu_cases.hpp"

using namespace proact;
using namespace proact::test;

namespace {

constexpr cuda::Stream here{0, 0};

/// Scalar, per-channel and per-neuron thresholds, with one slab and with several. With the 16
/// threads of the shim, up to 4 elements per sample are summed by columns, more by runs.
const HyReluShape shapes[] = {{1, 1, 1},  {3, 1, 37},  {1, 1, 1003}, {130, 1, 1},
                              {2, 3, 67}, {9, 2, 67},  {3, 5, 3},    {131, 11, 2},
                              {1, 13, 1}, {401, 3, 1}, {150, 7, 1},  {7, 9, 4}};

template <class Element>
HyReluGradient<RealOf<Element>> core_gradient(const KernelCase<Element>& c, std::size_t i) {
    using Real = RealOf<Element>;
    const Real grad = value_of(c.grad[i]), x = value_of(c.x[i]), threshold = c.threshold_of(i);
    const auto slope = Slope<Real>::of(steepness);
    if (c.mode == HyReluMode::soft)
        return hyrelu_gradient<HyReluMode::soft>(grad, x, threshold, slope);
    if (c.mode == HyReluMode::zero)
        return hyrelu_gradient<HyReluMode::zero>(grad, x, threshold, slope);
    return hyrelu_gradient<HyReluMode::saturate>(
        grad, x, stored_threshold<HyReluMode::saturate, Element>(threshold), slope);
}

template <class Element>
Element core_value(const KernelCase<Element>& c, std::size_t i) {
    using Real = RealOf<Element>;
    const Real x = value_of(c.x[i]), threshold = c.threshold_of(i);
    const auto slope = Slope<Real>::of(steepness);
    Real y;
    if (c.mode == HyReluMode::soft)
        y = hyrelu<HyReluMode::soft>(x, threshold, slope);
    else if (c.mode == HyReluMode::zero)
        y = hyrelu<HyReluMode::zero>(x, threshold, slope);
    else
        y = hyrelu<HyReluMode::saturate>(
            x, stored_threshold<HyReluMode::saturate, Element>(threshold), slope);
    return Arithmetic<Element>::store(y);
}

template <class Element>
void check_forward(const KernelCase<Element>& c, std::size_t offset, bool in_place) {
    context = c.name() + ", offset " + shown(offset) + (in_place ? ", in place" : "");
    Buffer<Element> x(c.x, offset), y(c.x.size(), offset);
    Buffer<RealOf<Element>> threshold(c.threshold, 0);
    Buffer<Element>& result = in_place ? x : y;
    cuda::hyrelu_forward(c.mode, c.shape, x.data(), threshold.data(), steepness, result.data(),
                         here);
    std::vector<Element> expected;
    for (std::size_t i = 0; i < c.x.size(); ++i) expected.push_back(core_value(c, i));
    CHECK(same_bits(result.data(), expected.data(), expected.size()));
    CHECK(in_place || same_bits(x.data(), c.x.data(), c.x.size()));
    CHECK(x.guards_are_whole() && y.guards_are_whole());
    context.clear();
}

/// The sums are over `unroll` numbers of type Real, then over doubles, then rounded to Real.
template <class Element>
void check_threshold_gradient(const KernelCase<Element>& c, const RealOf<Element>* got) {
    using Real = RealOf<Element>;
    std::vector<long double> sum(c.shape.thresholds), size(c.shape.thresholds);
    for (std::size_t i = 0; i < c.x.size(); ++i) {
        const long double term = core_gradient(c, i).threshold;
        sum[c.threshold_index(i)] += term;
        size[c.threshold_index(i)] += std::fabs(term);
    }
    const long double u = std::numeric_limits<Real>::epsilon() / 2;
    const long double terms = static_cast<long double>(c.shape.samples * c.shape.inner);
    for (std::size_t t = 0; t < sum.size(); ++t) {
        const long double error = size[t] * (4 * u + terms * 0x1p-53L);
        CHECK((Near{sum[t], error}.holds(got[t])));
    }
}

template <class Element>
void check_backward(const KernelCase<Element>& c, std::size_t offset) {
    using Real = RealOf<Element>;
    context = c.name() + ", offset " + shown(offset);
    const std::size_t workspace_bytes = cuda::backward_workspace_bytes(c.shape);
    CHECK(workspace_bytes * 16 <= c.x.size() * sizeof(Element));
    Buffer<Element> grad(c.grad, offset), x(c.x, offset);
    Buffer<Real> threshold(c.threshold, 0);
    std::vector<Real> first;
    for (int run = 0; run < 2; ++run) {
        Buffer<Element> grad_x(c.x.size(), offset);
        Buffer<Real> grad_threshold(c.shape.thresholds);
        Buffer<double> workspace(workspace_bytes / sizeof(double));
        cuda::hyrelu_backward(c.mode, c.shape, grad.data(), x.data(), threshold.data(), steepness,
                              grad_x.data(), grad_threshold.data(), workspace.data(), here);
        CHECK(grad_x.guards_are_whole() && grad_threshold.guards_are_whole() &&
              workspace.guards_are_whole());
        if (run == 0) {
            std::vector<Element> expected;
            for (std::size_t i = 0; i < c.x.size(); ++i)
                expected.push_back(Arithmetic<Element>::store(core_gradient(c, i).x));
            CHECK(same_bits(grad_x.data(), expected.data(), expected.size()));
            check_threshold_gradient(c, grad_threshold.data());
            first.assign(grad_threshold.data(), grad_threshold.data() + c.shape.thresholds);
        } else {
            CHECK(same_bits(grad_threshold.data(), first.data(), first.size()));
        }
    }
    context.clear();
}

template <class Element>
void elements_use_their_own_thresholds() {
    std::size_t with_slabs = 0;
    for (const HyReluShape& shape : shapes) {
        with_slabs += cuda::backward_workspace_bytes(shape) > 0;
        for (const HyReluMode mode : modes) {
            const KernelCase<Element> special = make_case<Element>(mode, shape, true);
            for (const std::size_t offset : {0u, 1u})
                for (const bool in_place : {false, true}) check_forward(special, offset, in_place);
            check_backward(special, 0);
            check_backward(make_case<Element>(mode, shape, false), 1);
        }
    }
    CHECK(with_slabs >= 4);
}

template <class Real>
void results_are_close_to_the_formula() {
    const KernelCase<Real> c = make_case<Real>(HyReluMode::soft, {50, 3, 11}, false);
    std::vector<Real> y(c.x.size()), grad_x(c.x.size()), grad_threshold(3);
    std::vector<double> workspace(cuda::backward_workspace_bytes(c.shape) / sizeof(double));
    cuda::hyrelu_forward(c.mode, c.shape, c.x.data(), c.threshold.data(), steepness, y.data(),
                         here);
    cuda::hyrelu_backward(c.mode, c.shape, c.grad.data(), c.x.data(), c.threshold.data(), steepness,
                          grad_x.data(), grad_threshold.data(), workspace.data(), here);
    Near sums[3];
    for (std::size_t i = 0; i < y.size(); ++i) {
        const SoftFormula formula =
            c.x[i] > 0 ? soft_formula(c.grad[i], c.x[i], c.threshold_of(i)) : SoftFormula{};
        CHECK_IN("element " + shown(i), formula.y.holds(y[i]));
        CHECK_IN("element " + shown(i), formula.grad_x.holds(grad_x[i]));
        Near& sum = sums[c.threshold_index(i)];
        const long double rounding = 4 * std::numeric_limits<Real>::epsilon();
        sum.value += formula.grad_threshold.value;
        sum.error += formula.grad_threshold.error +
                     std::fabs(formula.grad_threshold.value) * (rounding + 550 * 0x1p-53L);
    }
    for (std::size_t t = 0; t < 3; ++t) CHECK(sums[t].holds(grad_threshold[t]));
}

/// The value of y for each mode according to DESIGN 2.1.
template <class Element>
void non_finite_values_give_exact_results() {
    const double inf = std::numeric_limits<double>::infinity(), nan = std::nan("");
    const struct {
        double x, threshold, soft, zero, saturate;
    } table[] = {
        {nan, 1, 0, 0, 0},         {inf, 1, 0, 0, 1},
        {-inf, 1, 0, 0, 0},        {2.5, nan, 0, 0, 0},
        {2.5, -1, 0, 0, 0},        {2.5, -inf, 0, 0, 0},
        {2.5, inf, 2.5, 2.5, 2.5}, {inf, inf, 0, 0, 0},
        {nan, inf, 0, 0, 0},       {nan, nan, 0, 0, 0},
        {-1, inf, 0, 0, 0},        {1, 1, 0.5, 1, 1},
        {100, 0, 0, 0, 0},         {0.25, 100, 0.25, 0.25, 0.25},
        {100, 0.5, 0, 0, 0.5},
    };
    for (const auto& row : table)
        for (const HyReluMode mode : modes) {
            const Element x = element_of<Element>(row.x);
            const auto threshold = static_cast<RealOf<Element>>(row.threshold);
            Element y = element_of<Element>(77);
            cuda::hyrelu_forward(mode, {1, 1, 1}, &x, &threshold, steepness, &y, here);
            const double expected = mode == HyReluMode::soft   ? row.soft
                                    : mode == HyReluMode::zero ? row.zero
                                                               : row.saturate;
            CHECK_IN("x " + shown(row.x) + ", T " + shown(row.threshold) + ", mode " +
                         shown(static_cast<int>(mode)) + ": " + shown(double(value_of(y))),
                     value_of(y) == static_cast<RealOf<Element>>(expected));
        }
}

void empty_tensors_have_gradient_0() {
    float x = 7, grad_threshold[3] = {1, 2, 3};
    for (const HyReluShape& shape : {HyReluShape{0, 3, 5}, HyReluShape{4, 3, 0}}) {
        CHECK_EQUAL(cuda::backward_workspace_bytes(shape), std::size_t{0});
        grad_threshold[2] = 3;
        cuda::hyrelu_forward(HyReluMode::soft, shape, &x, &x, steepness, &x, here);
        cuda::hyrelu_backward(HyReluMode::soft, shape, &x, &x, &x, steepness, &x, grad_threshold,
                              nullptr, here);
        CHECK(x == 7 && grad_threshold[0] == 0 && grad_threshold[2] == 0);
    }
    cuda::hyrelu_backward<float>(HyReluMode::zero, {2, 0, 5}, nullptr, nullptr, nullptr, steepness,
                                 nullptr, nullptr, nullptr, here);
}

/// Uses the block size of a GPU and covers all slabs and lanes of every shape.
void walks_visit_every_element_once() {
    const HyReluShape large[] = {{1, 1, 100001}, {300, 5, 9},   {33, 2, 1000}, {900, 65, 1},
                                 {5000, 10, 1},  {129, 7, 49},  {2, 3, 65},    {20, 3, 257},
                                 {64, 513, 1},   {1000, 2, 64}, {1, 1, 3}};
    for (const unsigned threads : {256u, 16u})
        for (const HyReluShape& shape : large) {
            const cuda::BackwardPlan plan = cuda::backward_plan(shape, threads);
            context = shown(shape.samples) + " x " + shown(shape.thresholds) + " x " +
                      shown(shape.inner) + ", " + shown(threads) + " threads";
            CHECK(plan.lanes >= 1 && plan.lanes * plan.columns() <= threads);
            CHECK(plan.workspace_bytes() * 16 <= shape.elements() * 2);
            std::vector<unsigned> visits(shape.elements());
            bool right_threshold = true;
            for (std::size_t slab = 0; slab < plan.slabs; ++slab)
                for (std::size_t column = 0;
                     column < plan.shape.thresholds * plan.columns_per_threshold; ++column)
                    for (unsigned lane = 0; lane < plan.lanes; ++lane) {
                        auto walk = plan.by_runs ? cuda::walk_runs(plan, column, slab, lane)
                                                 : cuda::walk_samples(plan, column, slab, lane);
                        for (; walk.left > 0; walk.advance()) {
                            ++visits.at(walk.at);
                            right_threshold &= walk.at / plan.shape.inner % plan.shape.thresholds ==
                                               column / plan.columns_per_threshold;
                        }
                    }
            CHECK(right_threshold);
            CHECK(std::all_of(visits.begin(), visits.end(), [](unsigned n) { return n == 1; }));
        }
    context.clear();
}

void indices_beyond_32_bits() {
    const HyReluShape shape{std::size_t{1} << 20, 3000, 5};
    for (const std::size_t element :
         {std::size_t{0}, std::size_t{14999}, (std::size_t{1} << 32) - 1, std::size_t{1} << 32,
          shape.elements() - 1}) {
        cuda::ThresholdIndex index(shape, element);
        CHECK_EQUAL(index.threshold(), element / 5 % 3000);
        index.advance();
        CHECK_EQUAL(index.threshold(), (element + 1) / 5 % 3000);
    }
    CHECK_EQUAL(cuda::quotient(std::uint64_t{7} << 40, 7), std::uint64_t{1} << 40);
    CHECK_EQUAL(cuda::quotient(5, std::uint64_t{1} << 40), std::uint64_t{0});
}

}  // namespace

int main() {
    elements_use_their_own_thresholds<float>();
    elements_use_their_own_thresholds<double>();
    elements_use_their_own_thresholds<Float16>();
    elements_use_their_own_thresholds<BFloat16>();
    results_are_close_to_the_formula<float>();
    results_are_close_to_the_formula<double>();
    non_finite_values_give_exact_results<float>();
    non_finite_values_give_exact_results<double>();
    non_finite_values_give_exact_results<Float16>();
    non_finite_values_give_exact_results<BFloat16>();
    empty_tensors_have_gradient_0();
    walks_visit_every_element_once();
    indices_beyond_32_bits();
    return summary();
}
