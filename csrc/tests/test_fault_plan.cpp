// Tests a plan of several tensors: flips are independent of the other tensors, and invalid tensors
// are rejected.
#include <cmath>
#include <cstdint>
#include <limits>
#include <stdexcept>
#include <vector>

#include "guarded_buffer.hpp"

using namespace proact;
using test::GuardedBuffer;

namespace {

constexpr std::uint64_t every32 = 0xffffffff;

std::vector<test::ElementAndBit> places_alone(GuardedBuffer<std::uint32_t>& tensor,
                                              std::uint64_t stream, double ber, std::uint64_t seed,
                                              std::uint32_t trial) {
    const FlipLog log = test::plan_of({tensor.memory(stream, every32)}).flip(ber, {seed, trial});
    log.restore();
    return test::places(test::all_flips(log));
}

/// Only the stream determines the flips, not the plan index or the other tensors.
void other_tensors_change_nothing() {
    GuardedBuffer<std::uint8_t> first(500);
    GuardedBuffer<float> second(2000);
    GuardedBuffer<std::uint32_t> tensor(4097);
    GuardedBuffer<std::uint64_t> last(3);
    const std::vector<std::uint8_t> first_clean = first.all;
    const std::vector<float> second_clean = second.all;
    const std::vector<std::uint32_t> clean = tensor.all;
    const std::vector<std::uint64_t> last_clean = last.all;
    for (const double ber : {1e-3, 0.3, 0.8}) {
        const FaultPlan plan =
            test::plan_of({first.memory(1, 0x0f), second.memory(2, 0xffff, FixedPoint{16, 8}),
                           tensor.memory(77, every32), last.memory(4, 1)});
        CHECK_EQUAL(plan.exposed_bits(), std::uint64_t{500 * 4 + 2000 * 16 + 4097 * 32 + 3});
        const FlipLog log = plan.flip(ber, {test::seed, 6});
        const std::vector<std::uint32_t> among_others = tensor.all;
        log.restore();
        CHECK(first.all == first_clean);
        CHECK(test::same_bytes(second.all, second_clean));
        CHECK(tensor.all == clean);
        CHECK(last.all == last_clean);

        const FlipLog alone =
            test::plan_of({tensor.memory(77, every32)}).flip(ber, {test::seed, 6});
        CHECK(tensor.all == among_others);
        CHECK(alone.size() > 0);
        CHECK(test::places(test::all_flips(alone)) == test::places(test::flips_of(log, 2)));
        alone.restore();
    }
}

void flips_follow_seed_trial_and_stream() {
    GuardedBuffer<std::uint32_t> tensor(1000);
    for (const double ber : {0.01, 0.9}) {
        const auto places = places_alone(tensor, 5, ber, 1, 1);
        CHECK(places == places_alone(tensor, 5, ber, 1, 1));
        CHECK(places != places_alone(tensor, 6, ber, 1, 1));
        CHECK(places != places_alone(tensor, 5, ber, 2, 1));
        CHECK(places != places_alone(tensor, 5, ber, 1, 2));
    }
}

void invalid_tensors_are_rejected() {
    GuardedBuffer<std::uint64_t> buffer(4);
    const TensorMemory good = buffer.memory(1, 1);
    FaultPlan plan;
    const auto rejected = [&](auto change) {
        TensorMemory tensor = good;
        change(tensor);
        CHECK_THROWS(std::invalid_argument, plan.add(tensor));
    };
    for (const std::uint32_t bytes : {0u, 3u, 5u, 16u, 0xffffffffu})
        rejected([&](TensorMemory& t) { t.word_bytes = bytes; });
    rejected([](TensorMemory& t) { t.mask = 0; });
    for (const std::uint32_t bytes : {1u, 2u, 4u})
        rejected([&](TensorMemory& t) {
            t.word_bytes = bytes;
            t.mask = std::uint64_t{1} << (8 * bytes);
        });
    rejected([](TensorMemory& t) { t.stream = std::uint64_t{1} << 48; });
    rejected([](TensorMemory& t) { t.stream = ~std::uint64_t{0}; });
    rejected([](TensorMemory& t) { t.words = (std::uint64_t{1} << 32) + 1; });
    rejected([](TensorMemory& t) { t.words = ~std::uint64_t{0}; });
    for (const std::uint32_t bytes : {1u, 2u})
        rejected([&](TensorMemory& t) {
            t.word_bytes = bytes;
            t.format = FixedPoint{8, 4};
        });
    for (const FixedPoint& fixed : {FixedPoint{33, 16}, FixedPoint{64, 16}, FixedPoint{16, 16},
                                    FixedPoint{8, 9}, FixedPoint{1, 1}, FixedPoint{1, 0}}) {
        test::context = "word bits " + test::shown(fixed.word_bits) + ", fraction bits " +
                        test::shown(fixed.fraction_bits);
        rejected([&](TensorMemory& t) { t.format = fixed; });
    }
    test::context.clear();
    rejected([](TensorMemory& t) {
        t.format = FixedPoint{16, 8};
        t.mask = 0x10000;
    });
    CHECK_EQUAL(plan.exposed_bits(), std::uint64_t{0});
}

void the_largest_tensors_are_accepted() {
    GuardedBuffer<std::uint64_t> buffer(4);
    TensorMemory largest = buffer.memory((std::uint64_t{1} << 48) - 1, ~std::uint64_t{0});
    largest.words = std::uint64_t{1} << 32;  // counted but never accessed
    FaultPlan plan;
    plan.add(largest);
    CHECK_EQUAL(plan.exposed_bits(), std::uint64_t{1} << 38);
}

void invalid_bers_are_rejected() {
    GuardedBuffer<std::uint32_t> buffer(1000);
    const std::vector<std::uint32_t> clean = buffer.all;
    const FaultPlan plan = test::plan_of({buffer.memory(1, every32)});
    constexpr double infinity = std::numeric_limits<double>::infinity();
    for (const double ber :
         {std::numeric_limits<double>::quiet_NaN(), -0.1, 1.1, infinity, -infinity,
          std::nextafter(1.0, 2.0), -std::numeric_limits<double>::denorm_min()}) {
        test::context = "ber " + test::shown(ber);
        CHECK_THROWS(std::invalid_argument, plan.flip(ber, {0, 0}));
        CHECK_THROWS(std::invalid_argument, plan.flip_unlogged(ber, {0, 0}));
        CHECK_THROWS(std::invalid_argument, FaultPlan().flip(ber, {0, 0}));
        CHECK(buffer.all == clean);
    }
    test::context.clear();
    CHECK(FaultPlan().flip(0.5, {0, 0}).size() == 0);
}

}  // namespace

int main() {
    other_tensors_change_nothing();
    flips_follow_seed_trial_and_stream();
    invalid_tensors_are_rejected();
    the_largest_tensors_are_accepted();
    invalid_bers_are_rejected();
    return test::summary();
}
