// Tests that a sweep repairs values outside their bounds by definition and changes nothing else.
#include <cstdint>
#include <vector>

#include "range_cases.hpp"

using namespace proact;
using namespace proact::test;

namespace {

/// Sweeps a copy between guard words, compares every byte with the definition, and then restores
/// it.
template <class Element>
void matches(const std::vector<Element>& x, const Bounds<Element>& bounds, RangeAction action,
             Isa isa, std::size_t offset = 0) {
    GuardedBuffer<Element> buffer(x.size() + offset);
    Element* data = buffer.data() + offset;
    std::copy(x.begin(), x.end(), data);
    const std::vector<Element> before = buffer.all;
    std::vector<Element> expected = buffer.all;
    std::uint64_t outside = 0;
    for (std::size_t i = 0; i < x.size(); ++i) {
        const std::size_t channel = bounds.channel(i);
        const auto low = bounds.low[channel], high = bounds.high[channel];
        Element& word = expected[GuardedBuffer<Element>::guard + offset + i];
        word = swept(word, low, high, action);
        const auto value = Arithmetic<Element>::load(x[i]);
        outside += !(low <= value && value <= high && std::fabs(value) <= largest_element<Element>);
    }
    RangePlan plan;
    plan.add(memory_of(data, x.size(), bounds));
    SweepLog log;
    const std::vector<std::uint64_t> repairs = plan.sweep_into(log, action, isa, 1);
    const std::string where = name(isa) + ", bytes " + shown(sizeof(Element)) + ", elements " +
                              shown(x.size()) + ", offset " + shown(offset) + ", action " +
                              shown(static_cast<int>(action));
    CHECK_IN(where, same_bytes(buffer.all, expected));
    CHECK_IN(where, repairs.size() == 1 && repairs[0] == outside);
    log.restore();
    CHECK_IN(where, same_bytes(buffer.all, before));
}

/// Places a fault at each element of tensors of each length, to cover each lane, each vector and
/// each tail.
template <class Element>
void finds_one_fault_anywhere(Isa isa) {
    const Bounds<Element> bounds{{-1}, {1}, 1};
    const std::vector<Element> faults = faulty_values<Element>();
    for (const std::size_t size : {0u, 1u, 2u, 3u, 7u, 31u, 64u, 129u, 300u}) {
        std::vector<Element> x(size);
        fill_healthy(x.data(), size, 3);
        for (const RangeAction action : actions) matches(x, bounds, action, isa, size % 5);
        for (std::size_t i = 0; i < size; ++i) {
            const Element healthy = x[i];
            x[i] = faults[i % faults.size()];
            matches(x, bounds, actions[i % 2], isa, i % 7);
            x[i] = healthy;
        }
    }
}

/// Lengths around whole vectors, and lengths of several chunks of work with many faults.
template <class Element>
void finds_many_faults(Isa isa) {
    const std::vector<Element> faults = faulty_values<Element>();
    for (const std::size_t size : {255u, 256u, 257u, 5000u, 70001u}) {
        std::vector<Element> x(size);
        fill_healthy(x.data(), size, 5);
        for (std::size_t i = 0; i < size; i += 1 + (i * 7) % 400) x[i] = faults[i % faults.size()];
        for (const RangeAction action : actions)
            matches(x, Bounds<Element>{{-1}, {1}, 1}, action, isa);
    }
}

template <class Element>
void channels_have_their_own_bounds(Isa isa) {
    for (const std::uint64_t inner : {1u, 3u, 9u, 130u})
        for (const std::size_t channels : {1u, 2u, 5u}) {
            Bounds<Element> bounds{{}, {}, inner};
            for (std::size_t c = 0; c < channels; ++c) {
                bounds.low.push_back(RealOf<Element>(-0.5) +
                                     RealOf<Element>(0.25) * RealOf<Element>(c));
                bounds.high.push_back(bounds.low.back() + RealOf<Element>(0.5));
            }
            std::vector<Element> x(channels * inner * 3);  // three samples
            fill_healthy(x.data(), x.size(), 7);
            for (const RangeAction action : actions) matches(x, bounds, action, isa);
        }
}

/// Every pair of extreme bounds with every extreme value, alone and among others.
template <class Element>
void special_values_and_faulty_bounds(Isa isa) {
    using Real = RealOf<Element>;
    using Limits = std::numeric_limits<Real>;
    std::vector<Real> bounds;
    for (const Real magnitude :
         {Real(0), Limits::denorm_min(), Real(0.5), Real(1), Real(30000), Real(1e30), Limits::max(),
          Limits::infinity(), Limits::quiet_NaN()})
        bounds.insert(bounds.end(), {magnitude, -magnitude});
    std::vector<Element> x;
    for (const Real value : bounds) x.push_back(Arithmetic<Element>::store(value));
    std::vector<Element> company;
    for (std::size_t i = 0; i < 400; ++i) company.push_back(x[i * i % x.size()]);
    for (const Real low : bounds)
        for (const Real high : bounds)
            for (const RangeAction action : actions) {
                matches(x, Bounds<Element>{{low}, {high}, 1}, action, isa);
                matches(company, Bounds<Element>{{low}, {high}, 1}, action, isa);
            }
}

void a_negative_zero_stays() {
    std::vector<float> x(200, -0.0f);
    const std::vector<float> before = x;
    RangePlan plan;
    const Bounds<float> bounds{{0.0f}, {1.0f}, 1};
    plan.add(memory_of(x.data(), x.size(), bounds));
    SweepLog log;
    for (const Isa isa : available_isas())
        CHECK_EQUAL(plan.sweep_into(log, RangeAction::zero, isa, 1)[0], std::uint64_t{0});
    CHECK(same_bytes(x, before));
}

/// The replacements of zero where 0 is out of range, and of saturate for NaN.
void the_replacement_is_nearest_to_zero() {
    constexpr float nan = std::numeric_limits<float>::quiet_NaN();
    std::vector<float> x = {7.0f, 0.25f, -7.0f, nan};
    for (const Isa isa : available_isas())
        for (const auto& [low, high, expected] :
             {std::tuple{0.5f, 2.0f, 0.5f}, std::tuple{-2.0f, -0.5f, -0.5f},
              std::tuple{-2.0f, 0.125f, 0.0f}}) {
            const Bounds<float> bounds{{low}, {high}, 1};
            RangePlan plan;
            plan.add(memory_of(x.data(), x.size(), bounds));
            SweepLog zeroed;
            plan.sweep_into(zeroed, RangeAction::zero, isa, 1);
            CHECK(x == std::vector<float>(4, expected));
            zeroed.restore();
            SweepLog saturated;
            plan.sweep_into(saturated, RangeAction::saturate, isa, 1);
            CHECK(x == (std::vector<float>{high, 0.25f < low ? low : high, low, expected}));
            saturated.restore();
        }
}

/// Bounds may have another type than the elements.
void bounds_of_another_type() {
    const std::vector<double> low = {-1}, high = {0.75};
    std::vector<BFloat16> x(150);
    fill_healthy(x.data(), x.size(), 9);
    std::uint64_t outside = 0;
    for (const BFloat16 value : x) outside += Arithmetic<BFloat16>::load(value) > 0.75f;
    RangePlan plan;
    plan.add({reinterpret_cast<std::uintptr_t>(x.data()), x.size(), Dtype::bfloat16,
              reinterpret_cast<std::uintptr_t>(low.data()),
              reinterpret_cast<std::uintptr_t>(high.data()), Dtype::float64, 1, 1});
    SweepLog log;
    CHECK(outside > 0);
    CHECK_EQUAL(plan.sweep_into(log, RangeAction::zero, chosen_isa(), 1)[0], outside);
}

void layouts_are_checked() {
    RangePlan plan;
    BoundedMemory memory = {0, 0, Dtype::float32, 0, 0, Dtype::float32, 0, 1};
    CHECK_THROWS(std::invalid_argument, plan.add(memory));
    memory.channels = 1;
    memory.inner = 0;
    CHECK_THROWS(std::invalid_argument, plan.add(memory));
}

template <class Element>
void all() {
    for (const Isa isa : available_isas()) {
        finds_one_fault_anywhere<Element>(isa);
        finds_many_faults<Element>(isa);
        channels_have_their_own_bounds<Element>(isa);
        special_values_and_faulty_bounds<Element>(isa);
    }
}

}  // namespace

int main() {
    all<float>();
    all<double>();
    all<Float16>();
    all<BFloat16>();
    a_negative_zero_stays();
    the_replacement_is_nearest_to_zero();
    bounds_of_another_type();
    layouts_are_checked();
    return summary();
}
