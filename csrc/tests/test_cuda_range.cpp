// Tests that the kernel for range restriction, run on the host by csrc/cuda/host_shim.hpp, changes
// memory as the loops of the host do, and that its log undoes exactly that.
#include <cstdint>
#include <vector>

#include "../cuda/range.cu"
#include "../cuda/sweep.cu"
#include "device_sweep_log.hpp"
#include "range_cases.hpp"

using namespace proact;
using namespace proact::test;

namespace {

/// Sweeps on the device, and returns the description that the kernel reads.
void sweep(const cuda::DeviceRangePlan& plan, RangeAction action, const SweepMemory& memory) {
    const std::vector<unsigned char> description = plan.described();
    plan.sweep(address_of(description), action, memory.log(), here);
}

std::vector<std::uint64_t> sweep_on_host(const RangePlan& plan, RangeAction action) {
    SweepLog log;
    return plan.sweep_into(log, action, Isa::baseline, 1);
}

/// Sweeps copies on the device and on the host, between guard words, and then undoes the sweep.
template <class Element>
void matches_the_host(const std::vector<Element>& x, const Bounds<Element>& bounds,
                      RangeAction action, std::size_t offset = 0) {
    GuardedBuffer<Element> device(x.size() + offset);
    std::copy(x.begin(), x.end(), device.data() + offset);
    GuardedBuffer<Element> host = device;
    const std::vector<Element> before = device.all;
    cuda::DeviceRangePlan plan;
    plan.add(memory_of(device.data() + offset, x.size(), bounds));
    RangePlan host_plan;
    host_plan.add(memory_of(host.data() + offset, x.size(), bounds));

    SweepMemory memory(plan, plan.memories().groups());
    restore_after(plan, memory, plan.memories().groups());  // a sweep that was not made
    CHECK(same_bytes(device.all, before));
    sweep(plan, action, memory);
    const std::uint64_t expected = sweep_on_host(host_plan, action)[0];
    const std::string where = "bytes " + shown(sizeof(Element)) + ", elements " + shown(x.size()) +
                              ", offset " + shown(offset) + ", action " +
                              shown(static_cast<int>(action));
    CHECK_IN(where, same_bytes(device.all, host.all));
    CHECK_IN(where, memory.count(0) == expected);
    CHECK_IN(where, memory.guards_hold());
    restore_after(plan, memory, memory.wanted());
    CHECK_IN(where, same_bytes(device.all, before));

    SweepMemory unlogged(plan, 0);
    sweep(plan, action, unlogged);
    CHECK_IN(where, same_bytes(device.all, host.all));
    CHECK_IN(where, unlogged.count(0) == expected && unlogged.guards_hold());
}

template <class Element>
std::vector<Element> faulty_tensor(std::size_t size, std::size_t step) {
    const std::vector<Element> faults = faulty_values<Element>();
    std::vector<Element> x(size);
    fill_healthy(x.data(), size, 3);
    for (std::size_t i = 0; i < size; i += 1 + (i * 7) % step) x[i] = faults[i % faults.size()];
    return x;
}

template <class Element>
void finds_faults_anywhere() {
    const Bounds<Element> bounds{{-1}, {1}, 1};
    const std::vector<Element> faults = faulty_values<Element>();
    for (const std::size_t size : {0u, 1u, 2u, 7u, 8u, 9u, 33u}) {
        std::vector<Element> x(size);
        fill_healthy(x.data(), size, 3);
        for (std::size_t i = 0; i < size; ++i) {
            const Element healthy = x[i];
            x[i] = faults[i % faults.size()];
            matches_the_host(x, bounds, actions[i % 2], i % 9);
            x[i] = healthy;
        }
        matches_the_host(x, bounds, RangeAction::zero);
    }
    // Several blocks of threads; and every element, so that every group takes a slot.
    for (const std::size_t step : {200u, 1u})
        for (const std::size_t size : {4096u, 4097u, 20001u})
            for (const RangeAction action : actions)
                matches_the_host(faulty_tensor<Element>(size, step), bounds, action, size % 9);
}

template <class Element>
void channels_have_their_own_bounds() {
    for (const std::uint64_t inner : {1u, 3u, 9u, 130u})
        for (const std::size_t channels : {1u, 2u, 5u}) {
            Bounds<Element> bounds{{}, {}, inner};
            for (std::size_t c = 0; c < channels; ++c) {
                bounds.low.push_back(RealOf<Element>(-0.5) +
                                     RealOf<Element>(0.25) * RealOf<Element>(c));
                bounds.high.push_back(bounds.low.back() + RealOf<Element>(0.5));
            }
            for (const RangeAction action : actions)
                matches_the_host(faulty_tensor<Element>(channels * inner * 3, 5), bounds, action);
        }
}

/// Every pair of extreme bounds with every extreme value.
template <class Element>
void special_values_and_faulty_bounds() {
    using Real = RealOf<Element>;
    using Limits = std::numeric_limits<Real>;
    std::vector<Real> bounds;
    for (const Real magnitude : {Real(0), Limits::denorm_min(), Real(0.1), Real(30000), Real(1e30),
                                 Limits::max(), Limits::infinity(), Limits::quiet_NaN()})
        bounds.insert(bounds.end(), {magnitude, -magnitude});
    std::vector<Element> x;
    for (const Real value : bounds) x.push_back(Arithmetic<Element>::store(value));
    for (const Real low : bounds)
        for (const Real high : bounds)
            for (const RangeAction action : actions)
                matches_the_host(x, Bounds<Element>{{low}, {high}, 1}, action);
}

/// Tensors with bounds of another type, and empty tensors.
struct TensorsOfAllTypes {
    GuardedBuffer<float> floats{5001};
    GuardedBuffer<double> none{0}, doubles{300};
    GuardedBuffer<Float16> halves{777};
    GuardedBuffer<BFloat16> brains{9};
    std::vector<double> low = {-1, 0.1}, high = {0.75, 0.2};

    template <class Plan>
    void add_to(Plan& plan) {
        const auto add = [&](auto& buffer, Dtype dtype) {
            plan.add({reinterpret_cast<std::uintptr_t>(buffer.data()), buffer.size, dtype,
                      address_of(low), address_of(high), Dtype::float64, low.size(), 70});
        };
        add(none, Dtype::float64);
        add(floats, Dtype::float32);
        add(none, Dtype::float64);
        add(halves, Dtype::float16);
        add(brains, Dtype::bfloat16);
        add(doubles, Dtype::float64);
        add(none, Dtype::float64);
    }
    bool equal(const TensorsOfAllTypes& other) const {
        return same_bytes(floats.all, other.floats.all) &&
               same_bytes(doubles.all, other.doubles.all) &&
               same_bytes(halves.all, other.halves.all) && same_bytes(brains.all, other.brains.all);
    }
};

void tensors_of_all_types_are_swept_at_once() {
    for (const RangeAction action : actions) {
        TensorsOfAllTypes device, host;
        const TensorsOfAllTypes clean;
        cuda::DeviceRangePlan plan;
        device.add_to(plan);
        RangePlan host_plan;
        host.add_to(host_plan);
        const std::vector<std::uint64_t> expected = sweep_on_host(host_plan, action);
        SweepMemory memory(plan, plan.memories().groups());
        sweep(plan, action, memory);
        CHECK(device.equal(host) && !device.equal(clean));
        for (std::size_t i = 0; i < expected.size(); ++i) CHECK_EQUAL(memory.count(i), expected[i]);
        restore_after(plan, memory, plan.memories().groups());
        CHECK(device.equal(clean) && memory.guards_hold());
    }
}

/// Bounds that admit no number, so that sweeping again would count again.
void a_log_that_is_too_small_is_restored_and_made_again() {
    constexpr float nan = std::numeric_limits<float>::quiet_NaN();
    for (const float high : {1.0f, nan}) {
        const Bounds<float> bounds{{-1}, {high}, 1};
        std::vector<float> x = faulty_tensor<float>(9000, 20);
        const std::vector<float> before = x;
        cuda::DeviceRangePlan plan;
        plan.add(memory_of(x.data(), x.size(), bounds));
        SweepMemory small(plan, 5);
        sweep(plan, RangeAction::zero, small);
        CHECK(small.wanted() > 5 && small.guards_hold());
        std::uint64_t changed = 0;
        for (std::size_t i = 0; i < x.size(); i += 4)
            changed += std::memcmp(&x[i], &before[i], 16) != 0;
        CHECK_EQUAL(changed, std::uint64_t{5});
        restore_after(plan, small, 5);
        CHECK(same_bytes(x, before));

        SweepMemory enough(plan, small.wanted());
        sweep(plan, RangeAction::zero, enough);
        CHECK_EQUAL(enough.wanted(), small.wanted());
        CHECK_EQUAL(enough.count(0), small.count(0));
        std::vector<float> host = before;
        RangePlan host_plan;
        host_plan.add(memory_of(host.data(), host.size(), bounds));
        CHECK_EQUAL(enough.count(0), sweep_on_host(host_plan, RangeAction::zero)[0]);
        CHECK(same_bytes(x, host) && enough.guards_hold());
        restore_after(plan, enough, enough.wanted());
        CHECK(same_bytes(x, before));
    }
}

void only_what_was_replaced_is_restored() {
    const Bounds<float> bounds{{-1}, {1}, 1};
    std::vector<float> x = {0.5f, 7.0f, 0.25f, 0.125f, 9.0f, 0.0f};
    cuda::DeviceRangePlan plan;
    plan.add(memory_of(x.data(), x.size(), bounds));
    SweepMemory memory(plan, 2);
    sweep(plan, RangeAction::saturate, memory);
    CHECK(x == (std::vector<float>{0.5f, 1.0f, 0.25f, 0.125f, 1.0f, 0.0f}));
    x.assign(6, -3.0f);
    restore_after(plan, memory, 2);
    CHECK(x == (std::vector<float>{-3, 7, -3, -3, 9, -3}));

    std::vector<float> moved(6, -5.0f);
    restore_after(plan, memory, 2, {{address_of(x), 24, address_of(moved)}});
    CHECK(moved == (std::vector<float>{-5, 7, -5, -5, 9, -5}));
    x.assign(6, -4.0f);
    restore_after(plan, memory, 2, {{address_of(x), 24, 0}});
    CHECK(x == std::vector<float>(6, -4.0f));
}

void arguments_are_checked() {
    cuda::DeviceRangePlan plan;
    const std::vector<float> x(4);
    const BoundedMemory good = {
        address_of(x), 4, Dtype::float32, address_of(x), address_of(x), Dtype::float32, 1, 1};
    BoundedMemory bad = good;
    bad.channels = 0;
    CHECK_THROWS(std::invalid_argument, plan.add(bad));
    bad = good;
    bad.address += 2;
    CHECK_THROWS(std::invalid_argument, plan.add(bad));
    bad = good;
    bad.high += 1;
    CHECK_THROWS(std::invalid_argument, plan.add(bad));
    bad = good;
    bad.low = 0;
    CHECK_THROWS(std::invalid_argument, plan.add(bad));
    CHECK_EQUAL(plan.memories().groups(), std::uint64_t{0});
}

template <class Element>
void all() {
    finds_faults_anywhere<Element>();
    channels_have_their_own_bounds<Element>();
    special_values_and_faulty_bounds<Element>();
}

}  // namespace

int main() {
    all<float>();
    all<double>();
    all<Float16>();
    all<BFloat16>();
    tensors_of_all_types_are_swept_at_once();
    a_log_that_is_too_small_is_restored_and_made_again();
    only_what_was_replaced_is_restored();
    arguments_are_checked();
    return summary();
}
