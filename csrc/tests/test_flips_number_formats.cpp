// Tests flips in memory whose numbers represent other stored words, and in memory that is not
// accessed.
#include <algorithm>
#include <cstdint>
#include <limits>
#include <map>
#include <random>
#include <vector>

#include "guarded_buffer.hpp"

using namespace proact;
using test::GuardedBuffer;
using test::shown;

namespace {

constexpr std::size_t size = 6007;  // enough flips for three threads to get a share
constexpr float scales[] = {1.0f, 0x1p-7f, 100663 * 0x1p-25f, 0.003f, 0x1p-23f};

/// Weights, some of which few formats represent exactly; restoring must recover them.
template <class Real>
GuardedBuffer<Real> weights() {
    using Limits = std::numeric_limits<Real>;
    GuardedBuffer<Real> buffer(size);
    std::mt19937 random(7);
    std::normal_distribution<double> normal(0.0, 0.3);
    for (std::size_t i = 0; i < size; ++i) buffer.data()[i] = static_cast<Real>(normal(random));
    const std::vector<Real> odd{Limits::quiet_NaN(),
                                -Limits::quiet_NaN(),
                                Limits::infinity(),
                                -Limits::infinity(),
                                -Real{0},
                                Limits::max(),
                                Limits::denorm_min(),
                                Real(-70000),
                                Real(3e-8)};
    for (std::size_t i = 0; i < 10 * odd.size(); ++i)
        buffer.data()[61 * i + 7] = odd[i % odd.size()];
    return buffer;
}

bool same_flips(const FlipLog& a, const FlipLog& b) {
    const auto mine = test::all_flips(a), theirs = test::all_flips(b);
    return std::equal(mine.begin(), mine.end(), theirs.begin(), theirs.end(),
                      [](const Flip& x, const Flip& y) {
                          return x.element == y.element && x.bit == y.bit && x.before == y.before;
                      });
}

/// Checks the number, order and effect of the flips for every way to make them.
template <class Real>
void threads_change_nothing(const FaultPlan& plan, double ber, GuardedBuffer<Real>& buffer,
                            const std::vector<Real>& clean, const FlipLog& log) {
    const std::vector<Real> faulty = buffer.all;
    for (const unsigned threads : {1u, 3u}) {
        log.restore(threads);
        CHECK(test::same_bytes(buffer.all, clean));
        const Execution execution{chosen_isa(), threads};
        CHECK(same_flips(plan.flip(ber, {test::seed, 4}, execution), log));
        CHECK(test::same_bytes(buffer.all, faulty));
        log.restore(threads);
        CHECK_EQUAL(plan.flip_unlogged(ber, {test::seed, 4}, execution), std::uint64_t{log.size()});
        CHECK(test::same_bytes(buffer.all, faulty));
    }
    log.restore();
    CHECK(test::same_bytes(buffer.all, clean));
}

/// All flips of a word act on the stored word of the clean number. `format_of(element)` returns the
/// format of an element; test_number_formats.cpp tests its arithmetic.
template <class Real, class FormatOf>
void flips_act_on_the_stored_word(const NumberFormat& format, std::uint64_t mask,
                                  FormatOf format_of) {
    GuardedBuffer<Real> buffer = weights<Real>();
    const std::vector<Real> clean = buffer.all;
    const FaultPlan plan = test::plan_of({buffer.memory(9, mask, format)});
    CHECK_EQUAL(plan.exposed_bits(), std::uint64_t{size} * bit_count(mask));
    for (const double ber : {0.0, 1e-3, 0.05, 0.4, 0.9, 1.0}) {
        test::context = "format " + shown(format.index()) + ", " + shown(sizeof(Real)) +
                        " bytes, mask " + shown(mask) + ", ber " + shown(ber);
        const FlipLog log = plan.flip(ber, {test::seed, 4});
        const auto places = test::places(test::all_flips(log));
        CHECK(test::distinct_and_exposed(places, size, mask));
        if (ber == 1.0) CHECK_EQUAL(std::uint64_t{log.size()}, plan.exposed_bits());

        std::map<std::uint64_t, std::uint32_t> flipped;
        for (const auto& [element, bit] : places) flipped[element] ^= std::uint32_t{1} << bit;
        CHECK(ber < 0.05 || bit_count(mask) == 1 || flipped.size() < places.size());
        std::vector<Real> expected = clean;
        for (const auto& [element, bits] : flipped) {
            Real& value = expected[GuardedBuffer<Real>::guard + element];
            const auto format_here = format_of(element);
            value = format_here.template decode<Real>(format_here.encode(value) ^ bits);
        }
        CHECK(test::same_bytes(buffer.all, expected));
        threads_change_nothing(plan, ber, buffer, clean, log);
    }
    test::context.clear();
}

template <class Real, class Format>
void every_mask(const Format& format, std::uint32_t word_bits) {
    const std::uint64_t top = std::uint64_t{1} << (word_bits - 1), whole = 2 * top - 1;
    for (const std::uint64_t mask : {whole, top, whole & 0x5a5a5a5a})
        flips_act_on_the_stored_word<Real>(format, mask, [&](std::uint64_t) { return format; });
}

/// Returns the scale of each element, computed by counting from the first one.
std::vector<float> scale_of_each(std::size_t channels, std::size_t inner) {
    std::vector<float> all;
    while (all.size() < size)
        for (std::size_t channel = 0; channel < channels; ++channel)
            all.insert(all.end(), inner, scales[channel]);
    return all;
}

template <class Real>
void channels_of_integers() {
    struct ChannelCase {
        std::uint32_t bits, channels, inner;
    };
    for (const ChannelCase& c :
         {ChannelCase{8, 1, 1}, ChannelCase{8, 1, size}, ChannelCase{2, 5, 1}, ChannelCase{8, 3, 7},
          ChannelCase{16, 4, 1001}, ChannelCase{8, 5, 2000}}) {
        const std::vector<float> each = scale_of_each(c.channels, c.inner);
        flips_act_on_the_stored_word<Real>(
            ScaledIntegers{c.bits,
                           {reinterpret_cast<std::uintptr_t>(scales), c.channels,
                            std::uint64_t{c.channels} * c.inner, c.inner, 0}},
            (std::uint64_t{1} << c.bits) - 1,
            [&](std::uint64_t element) { return ScaledInteger{each[element], c.bits}; });
    }
}

/// The flips drawn for `Unread` memory, which need not exist, equal the flips in memory with the
/// words.
template <class Word>
void unread_memory_is_not_accessed(std::uint32_t word_bits, std::uint64_t mask) {
    GuardedBuffer<Word> words(size);
    GuardedBuffer<std::uint32_t> unread(size);
    const std::vector<std::uint32_t> clean = unread.all;
    const FaultPlan drawn_and_made = test::plan_of({words.memory(9, mask)});
    for (const std::uint32_t word_bytes : {1u, 4u}) {
        const std::uintptr_t address = word_bytes == 1 ? 0 : unread.memory(9, mask).address;
        const FaultPlan drawn =
            test::plan_of({{address, size, word_bytes, 9, mask, Unread{word_bits}}});
        CHECK_EQUAL(drawn.exposed_bits(), drawn_and_made.exposed_bits());
        const auto agrees = [&](const FlipLog& log, const FlipLog& expected) {
            CHECK(test::places(test::all_flips(log)) == test::places(test::all_flips(expected)));
            const std::vector<Flip> flips = test::all_flips(log);
            CHECK(std::all_of(flips.begin(), flips.end(),
                              [](const Flip& flip) { return flip.before == 0; }));
            CHECK(unread.all == clean);
            expected.restore();
        };
        for (const double ber : {0.0, 1e-3, 0.4, 0.9, 1.0})
            for (const unsigned threads : {1u, 3u}) {
                test::context = shown(word_bits) + " bits, ber " + shown(ber);
                const Execution execution{chosen_isa(), threads};
                const FlipLog expected = drawn_and_made.flip(ber, {test::seed, 4});
                agrees(drawn.flip(ber, {test::seed, 4}, execution), expected);
                CHECK_EQUAL(drawn.flip_unlogged(ber, {test::seed, 4}, execution),
                            std::uint64_t{expected.size()});
                CHECK(unread.all == clean);
            }
        for (const std::uint64_t flips :
             {std::uint64_t{0}, std::uint64_t{77}, drawn.exposed_bits() - 1}) {
            test::context = shown(word_bits) + " bits, " + shown(flips) + " flips";
            FlipLog log, expected;
            drawn.flip_exactly_into(log, flips, {test::seed, 4});
            drawn_and_made.flip_exactly_into(expected, flips, {test::seed, 4});
            agrees(log, expected);
        }
    }
    test::context.clear();
}

/// The address is 0, so any access would crash the test.
void unread_logs_restore_nothing() {
    const FaultPlan plan =
        test::plan_of({{0, 500, 1, 1, 0xff, Unread{8}}, {0, 500, 1, 2, 0xff, Unread{8}}});
    CHECK(plan.replay_undoes());
    const FlipLog log = plan.flip(0.1, {test::seed, 1});
    CHECK(log.size() > 0);
    log.restore();
    FlipLog nearly_all;
    plan.flip_exactly_into(nearly_all, plan.exposed_bits() - 100, {test::seed, 1});
    nearly_all.restore();
}

}  // namespace

int main() {
    unread_logs_restore_nothing();
    channels_of_integers<float>();
    channels_of_integers<double>();
    every_mask<float>(StoredHalf<Float16>{}, 16);
    every_mask<float>(StoredHalf<BFloat16>{}, 16);
    every_mask<double>(StoredFloat{}, 32);
    unread_memory_is_not_accessed<std::uint8_t>(8, 0xff);
    unread_memory_is_not_accessed<std::uint8_t>(5, 0x1d);
    unread_memory_is_not_accessed<std::uint16_t>(15, 0x7ffe);
    unread_memory_is_not_accessed<std::uint32_t>(32, 0xffffffff);
    unread_memory_is_not_accessed<std::uint64_t>(64, ~std::uint64_t{0});
    return test::summary();
}
