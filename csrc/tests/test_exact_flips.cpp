// Tests exactly n flips: distinct, exposed, all sets equally likely, and mostly the same in a
// larger plan.
#include <algorithm>
#include <cstdint>
#include <map>
#include <set>
#include <stdexcept>
#include <vector>

#include "guarded_buffer.hpp"

using namespace proact;
using test::GuardedBuffer;

namespace {

using Place = std::pair<std::size_t, test::ElementAndBit>;

std::set<Place> places(const FlipLog& log) {
    std::set<Place> all;
    log.for_each([&](std::size_t tensor, const Flip& flip) {
        all.insert({tensor, {flip.element, flip.bit}});
    });
    CHECK_EQUAL(all.size(), log.size());
    return all;
}

void every_count_is_exact() {
    GuardedBuffer<std::uint8_t> bytes(40);
    GuardedBuffer<float> fixed(10);
    GuardedBuffer<std::uint32_t> none(0);
    for (std::size_t i = 0; i < fixed.size; ++i) fixed.data()[i] = static_cast<float>(i) - 4.25f;
    const FaultPlan plan = test::plan_of(
        {bytes.memory(1, 0x1d), none.memory(2, 1), fixed.memory(3, 0xffff, FixedPoint{16, 8})});
    const std::vector<std::uint8_t> clean_bytes = bytes.all;
    const std::vector<float> clean_fixed = fixed.all;
    const std::uint64_t total = plan.exposed_bits();
    CHECK_EQUAL(total, std::uint64_t{40 * 4 + 10 * 16});
    for (std::uint64_t n = 0; n <= total; ++n) {
        test::context = test::shown(n) + " flips";
        FlipLog log;
        plan.flip_exactly_into(log, n, {test::seed, 3});
        CHECK_EQUAL(std::uint64_t{places(log).size()}, n);
        for (const auto& [tensor, place] : places(log))
            CHECK(tensor == 0 ? (0x1d >> place.second & 1) == 1 : tensor == 2 && place.second < 16);

        std::vector<std::uint8_t> expected = clean_bytes;
        for (const auto& [tensor, place] : places(log))
            if (tensor == 0)
                expected[GuardedBuffer<std::uint8_t>::guard + place.first] ^=
                    static_cast<std::uint8_t>(1 << place.second);
        CHECK(bytes.all == expected);
        log.restore();
        CHECK(bytes.all == clean_bytes);
        CHECK(test::same_bytes(fixed.all, clean_fixed));
    }
    FlipLog log;
    CHECK_THROWS(std::invalid_argument, plan.flip_exactly_into(log, total + 1, {test::seed, 3}));
    CHECK(bytes.all == clean_bytes);
    test::context.clear();
}

/// Every bit is chosen with probability n / bits, within 5 standard deviations.
void every_bit_is_equally_likely() {
    GuardedBuffer<std::uint8_t> first(3);
    GuardedBuffer<std::uint16_t> second(5);
    const FaultPlan plan = test::plan_of({first.memory(1, 0xff), second.memory(2, 0x0ff0)});
    constexpr double bits = 3 * 8 + 5 * 8, trials = 20000;
    for (const std::uint64_t n : {std::uint64_t{1}, std::uint64_t{7}, std::uint64_t{50}}) {
        std::map<Place, double> counts;
        for (std::uint32_t trial = 0; trial < trials; ++trial) {
            FlipLog log;
            plan.flip_exactly_into(log, n, {test::seed, trial});
            for (const Place& place : places(log)) counts[place] += 1;
        }
        CHECK_EQUAL(counts.size(), std::size_t{64});
        const double p = static_cast<double>(n) / bits;
        for (const auto& [place, count] : counts) {
            const double deviation = count - trials * p;
            CHECK(deviation * deviation < 25.0 * trials * p * (1.0 - p));
        }
    }
}

/// Every pair of bits is equally likely, including pairs within a word and across tensors.
void pairs_are_equally_likely() {
    GuardedBuffer<std::uint8_t> first(1), second(1);
    const FaultPlan plan = test::plan_of({first.memory(1, 0x0f), second.memory(2, 0x07)});
    constexpr double trials = 21000, pairs = 21;
    std::map<std::set<Place>, double> counts;
    for (std::uint32_t trial = 0; trial < trials; ++trial) {
        FlipLog log;
        plan.flip_exactly_into(log, 2, {test::seed, trial});
        counts[places(log)] += 1;
    }
    CHECK_EQUAL(counts.size(), std::size_t{21});
    double chi_square = 0;
    for (const auto& [pair, count] : counts)
        chi_square += (count - trials / pairs) * (count - trials / pairs) / (trials / pairs);
    CHECK(chi_square < 52.4);  // 20 degrees of freedom, quantile 0.9999
}

/// Two protected variants of one model must meet nearly the same faults.
void an_additional_tensor_changes_few_flips() {
    GuardedBuffer<std::uint32_t> weights(20000), thresholds(60);
    const FaultPlan plain = test::plan_of({weights.memory(1, 0xffffffff)});
    const FaultPlan guarded =
        test::plan_of({weights.memory(1, 0xffffffff), thresholds.memory(2, 0xffffffff)});
    std::size_t shared = 0, all = 0;
    for (std::uint32_t trial = 0; trial < 200; ++trial) {
        FlipLog a, b;
        plain.flip_exactly_into(a, 20, {test::seed, trial});
        guarded.flip_exactly_into(b, 20, {test::seed, trial});
        const std::set<Place> mine = places(a), theirs = places(b);
        all += mine.size();
        for (const Place& place : mine) shared += theirs.count(place);
    }
    CHECK_EQUAL(all, std::size_t{200 * 20});
    CHECK(shared > all * 9 / 10);
}

}  // namespace

int main() {
    every_count_is_exact();
    every_bit_is_equally_likely();
    pairs_are_equally_likely();
    an_additional_tensor_changes_few_flips();
    return test::summary();
}
