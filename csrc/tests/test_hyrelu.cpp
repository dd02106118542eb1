// Tests the forward loops of every instruction set against the formula: lengths, tails, layouts,
// in-place operation.
#include <vector>

#include "hyrelu_cases.hpp"

using namespace proact;
using namespace proact::test;

namespace {

template <class Real>
void matches(const HyReluCase<Real>& c) {
    std::vector<Reference> references;
    for (std::size_t i = 0; i < c.x.size(); ++i) references.push_back(c.reference(i));
    const std::vector<Real> baseline = forward(Isa::baseline, c, 0);
    for (const Isa isa : available_isas()) {
        const std::string name = c.name(isa, 0);
        const std::vector<Real> y = forward(isa, c, 0);
        for (std::size_t i = 0; i < y.size(); ++i) {
            const Reference& reference = references[i];
            CHECK_IN(name + c.element(i), within(y[i], reference.value.y, reference.tolerance.y));
            CHECK_IN(name + c.element(i), nearly_same(y[i], baseline[i], reference.scale.y));
        }

        context = c.name(isa, 1);
        CHECK(same_bits(forward(isa, c, 1), y));
        for (const std::size_t offset : {std::size_t{0}, std::size_t{1}}) {
            Placed<Real> x(c.x, offset), threshold(c.threshold, offset);
            hyrelu_forward(c.mode, c.shape, x.data(), threshold.data(), c.slope, x.data(),
                           {isa, 1});
            CHECK(same_bits(x.values(y.size()), y));
        }
    }
    context.clear();
}

/// y depends only on x and T, not on the lane or the other elements of the chunk.
template <class Real>
void neighbours_do_not_change_a_result() {
    for (const HyReluMode mode : modes)
        for (const Spread spread : spreads)
            for (const Isa isa : available_isas()) {
                const HyReluCase<Real> c =
                    make_case<Real>(mode, shape_of(Layout::neuron, 270), spread);
                const std::vector<Real> y = forward(isa, c, 0);
                for (std::size_t i = 0; i < y.size(); ++i) {
                    const HyReluCase<Real> alone{mode,     {1, 1, 1},   c.slope,
                                                 {c.x[i]}, {c.grad[i]}, {c.threshold_of(i)}};
                    CHECK_IN(c.name(isa, 0) + c.element(i), forward(isa, alone, 0)[0] == y[i]);
                }
            }
}

/// A tensor of shape (2, 3, 0) has no element to read or write.
template <class Real>
void nothing_is_written_without_elements() {
    for (const HyReluMode mode : modes)
        for (const Isa isa : available_isas())
            for (const HyReluShape& shape : {HyReluShape{2, 3, 0}, HyReluShape{0, 3, 2},
                                             HyReluShape{2, 0, 3}, HyReluShape{2, 1, 0}}) {
                const HyReluCase<Real> c{mode, shape, 20, {}, {}, {1, 1, 1}};
                const std::vector<Real> x(32, 1);
                std::vector<Real> y(32, -7);
                hyrelu_forward(mode, shape, x.data(), c.threshold.data(), c.slope, y.data(),
                               {isa, 1});
                CHECK_IN(c.name(isa, 0), y == std::vector<Real>(32, -7));
            }
}

/// A shared threshold makes several samples one run.
template <class Real>
void samples_share_a_scalar_threshold() {
    for (const HyReluMode mode : modes)
        for (const Isa isa : available_isas()) {
            HyReluCase<Real> c = make_case<Real>(mode, {7, 1, 41}, Spread::around);
            const std::vector<Real> y = forward(isa, c, 0);
            c.shape = {1, 1, 7 * 41};
            CHECK(same_bits(forward(isa, c, 0), y));
            c.shape = {7 * 41, 1, 1};
            CHECK(same_bits(forward(isa, c, 0), y));
        }
}

/// y(T) = T / 2 exactly, because the gate is 1 / (1 + exp(0)).
template <class Real>
void at_its_threshold_soft_gives_half() {
    for (const Isa isa : available_isas())
        for (const Real t : {Real(0.5), Real(1), Real(3.7), Real(1000)}) {
            const HyReluCase<Real> c{HyReluMode::soft, {1, 1, 1}, 20, {t}, {1}, {t}};
            context = c.name(isa, 0) + c.element(0);
            CHECK_EQUAL(forward(isa, c, 0)[0], t / 2);
        }
    context.clear();
}

template <class Real>
void all() {
    for_each_case<Real>(matches<Real>);
    nothing_is_written_without_elements<Real>();
    neighbours_do_not_change_a_result<Real>();
    samples_share_a_scalar_threshold<Real>();
    at_its_threshold_soft_gives_half<Real>();
}

}  // namespace

int main() {
    all<float>();
    all<double>();
    return summary();
}
