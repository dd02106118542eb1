// Tests flips in words that are their own stored form: the changed words, the log, and the undo.
#include <algorithm>
#include <cstdint>
#include <limits>
#include <map>
#include <vector>

#include "guarded_buffer.hpp"

using namespace proact;
using test::GuardedBuffer;

namespace {

const std::vector<std::size_t> sizes = {0, 1, 3, 1000, 4097};
const std::vector<double> bers = {1e-12, 1e-4, 1e-3, 0.02, 0.3, 0.5, 0.51, 0.7, 0.999, 1.0};

template <class Word>
std::vector<std::uint64_t> masks() {
    const std::uint64_t every = std::numeric_limits<Word>::max();
    const std::uint64_t top = (every >> 1) + 1;
    return {every, 1, top, top | 1, every & 0x5a5a5a5a5a5a5a5au};
}

/// Replays the log on a copy and checks every old word and every change.
template <class Word>
std::vector<Word> replay(std::vector<Word> words, const std::vector<Flip>& flips) {
    for (const Flip& flip : flips) {
        Word& word = words[GuardedBuffer<Word>::guard + flip.element];
        CHECK_EQUAL(flip.before, std::uint64_t{word});
        word = static_cast<Word>(word ^ (Word{1} << flip.bit));
    }
    return words;
}

template <class Word>
void flip_log_and_restore_agree(std::size_t size, std::uint64_t mask, double ber) {
    GuardedBuffer<Word> buffer(size);
    const std::vector<Word> clean = buffer.all;
    const FaultPlan plan = test::plan_of({buffer.memory(3, mask)});

    const FlipLog log = plan.flip(ber, {test::seed, 11});
    const std::vector<Word> faulty = buffer.all;
    const std::vector<Flip> flips = test::flips_of(log, 0);
    CHECK(test::distinct_and_exposed(test::places(flips), size, mask));
    CHECK(replay(clean, flips) == faulty);
    CHECK(buffer.guards_equal(clean));
    log.restore();
    CHECK(buffer.all == clean);

    CHECK_EQUAL(plan.flip_unlogged(ber, {test::seed, 11}), std::uint64_t{flips.size()});
    CHECK(buffer.all == faulty);
}

template <class Word>
void extremes(std::size_t size, std::uint64_t mask) {
    GuardedBuffer<Word> buffer(size);
    const std::vector<Word> clean = buffer.all;
    const FaultPlan plan = test::plan_of({buffer.memory(3, mask)});

    for (const double none : {0.0, -0.0}) {
        CHECK(plan.flip(none, {test::seed, 0}).size() == 0);
        CHECK_EQUAL(plan.flip_unlogged(none, {test::seed, 0}), std::uint64_t{0});
        CHECK(buffer.all == clean);
    }
    CHECK_EQUAL(std::uint64_t{plan.flip(1.0, {test::seed, 0}).size()}, plan.exposed_bits());
    CHECK(buffer.guards_equal(clean));
    for (std::size_t i = 0; i < size; ++i)
        CHECK_EQUAL(buffer.data()[i],
                    static_cast<Word>(clean[GuardedBuffer<Word>::guard + i] ^ mask));
}

/// Restoring must work even if the model repairs or changes words while they are faulty.
template <class Word>
void restore_writes_flipped_words_and_no_others(double ber) {
    GuardedBuffer<Word> buffer(1000);
    std::vector<Word> expected = buffer.all;
    const FlipLog log = test::plan_of({buffer.memory(3, std::numeric_limits<Word>::max())})
                            .flip(ber, {test::seed, 2});
    std::vector<bool> flipped(buffer.all.size(), false);
    for (const Flip& flip : test::all_flips(log))
        flipped[GuardedBuffer<Word>::guard + flip.element] = true;

    for (std::size_t i = 0; i < buffer.all.size(); ++i) {
        buffer.all[i] = static_cast<Word>(i * 0x9e3779b97f4a7c15u);
        if (!flipped[i]) expected[i] = buffer.all[i];
    }
    log.restore();
    CHECK(buffer.all == expected);
    CHECK(std::count(flipped.begin(), flipped.end(), true) > 0);
}

/// A tensor that occurs twice in a plan, over two trials: only the reverse order restores the
/// oldest words, and threads must not share a word.
void a_log_restores_all_its_calls() {
    for (const unsigned threads : {1u, 4u}) {
        GuardedBuffer<std::uint32_t> buffer(100000);
        const std::vector<std::uint32_t> clean = buffer.all;
        const FaultPlan plan =
            test::plan_of({buffer.memory(1, 0xffffffff), buffer.memory(2, 0xffffffff)});
        CHECK(!plan.replay_undoes());
        FlipLog log;
        for (const std::uint32_t trial : {0u, 1u})
            plan.flip_into(log, 0.3, {test::seed, trial}, {chosen_isa(), threads});
        CHECK(buffer.all != clean);
        CHECK_EQUAL(log.calls.size(), std::size_t{2});
        log.restore(threads);
        CHECK(buffer.all == clean);
    }
}

/// A recycled log passes on its memory but none of its contents.
void recycled_memory_is_empty() {
    GuardedBuffer<std::uint32_t> buffer(5000);
    const std::vector<std::uint32_t> clean = buffer.all;
    const FaultPlan plan = test::plan_of({buffer.memory(1, 0xffffffff)});
    FlipLog log = plan.flip(0.2, {test::seed, 0});
    const auto places = test::places(test::all_flips(log));
    log.restore();
    plan.recycle(log);
    CHECK_EQUAL(log.size(), std::size_t{0});
    log.restore();
    CHECK(buffer.all == clean);
    FlipLog next = plan.flip(0.01, {test::seed, 1});
    next.restore();
    CHECK(buffer.all == clean);
    plan.recycle(next);
    CHECK(test::places(test::all_flips(plan.flip(0.2, {test::seed, 0}))) == places);
}

/// The counts over many trials are binomial, within 5 standard deviations for a fixed seed.
void every_bit_flips_at_the_ber() {
    for (const double ber : {0.003, 0.2, 0.5, 0.9}) {
        test::context = "ber " + test::shown(ber);
        GuardedBuffer<std::uint16_t> buffer(301);
        const FaultPlan plan = test::plan_of({buffer.memory(3, 0x8421)});
        std::map<std::uint32_t, double> by_bit;
        constexpr std::uint32_t trials = 400;
        for (std::uint32_t trial = 0; trial < trials; ++trial)
            for (const Flip& flip : test::all_flips(plan.flip(ber, {test::seed, trial})))
                by_bit[flip.bit] += 1;
        const double mean = ber * 301 * trials;
        CHECK_EQUAL(by_bit.size(), std::size_t{4});
        for (const auto& [bit, count] : by_bit)
            CHECK((count - mean) * (count - mean) < 25.0 * mean * (1.0 - ber));
    }
    test::context.clear();
}

template <class Word>
void all_sizes_and_masks() {
    for (const std::size_t size : sizes)
        for (const std::uint64_t mask : masks<Word>()) {
            test::context = test::shown(sizeof(Word)) + " bytes, " + test::shown(size) +
                            " words, mask " + test::shown(mask);
            extremes<Word>(size, mask);
            for (const double ber : bers) flip_log_and_restore_agree<Word>(size, mask, ber);
        }
    for (const double ber : {0.01, 0.7, 1.0}) restore_writes_flipped_words_and_no_others<Word>(ber);
    test::context.clear();
}

}  // namespace

int main() {
    all_sizes_and_masks<std::uint8_t>();
    all_sizes_and_masks<std::uint16_t>();
    all_sizes_and_masks<std::uint32_t>();
    all_sizes_and_masks<std::uint64_t>();
    a_log_restores_all_its_calls();
    recycled_memory_is_empty();
    every_bit_flips_at_the_ber();
    return test::summary();
}
