// Tests fixed-point words: rounding, saturation, special values, single flips.
#include <cmath>
#include <cstdint>
#include <limits>

#include "../core/fixed_point.hpp"
#include "check.hpp"

using namespace proact;

namespace {

constexpr FixedPoint q15_16{32, 16};
constexpr FixedPoint q3_4{8, 4};
constexpr FixedPoint q0_31{32, 31};
constexpr FixedPoint q7_8{16, 8};
constexpr FixedPoint q31_0{32, 0};
constexpr FixedPoint q1_0{2, 0};

void known_words() {
    CHECK_EQUAL(q15_16.encode(1.0), 0x00010000u);
    CHECK_EQUAL(q15_16.encode(-1.0f), 0xffff0000u);
    CHECK_EQUAL(q15_16.encode(0.05), 3277u);
    CHECK_EQUAL(q15_16.encode(-0.05f), 0u - 3277u);
    CHECK_EQUAL(q3_4.encode(-0.0625), 0xffu);
    CHECK_EQUAL(q3_4.encode(7.9375f), 0x7fu);
    CHECK_EQUAL(q3_4.encode(-8.0), 0x80u);
    CHECK_EQUAL(q0_31.encode(-1.0), 0x80000000u);
    CHECK_EQUAL(q0_31.encode(0.5f), 0x40000000u);
    CHECK_EQUAL(q31_0.encode(-2147483648.0), 0x80000000u);
    CHECK_EQUAL(q31_0.encode(2147483647.0), 0x7fffffffu);
    CHECK_EQUAL(q1_0.encode(-2.0), 2u);

    CHECK_EQUAL(q15_16.decode<double>(0x7fffffffu), 32768.0 - 0x1p-16);
    CHECK_EQUAL(q15_16.decode<double>(0x80000000u), -32768.0);
    CHECK_EQUAL(q15_16.decode<float>(0x7fffffffu), 32768.0f);  // rounded: float has 24 digits
    CHECK_EQUAL(q0_31.decode<double>(1u), 0x1p-31);
    CHECK_EQUAL(q0_31.decode<double>(0xffffffffu), -0x1p-31);
    CHECK_EQUAL(q31_0.decode<double>(0x80000000u), -2147483648.0);
    CHECK_EQUAL(q3_4.decode<float>(0x80u), -8.0f);
    CHECK_EQUAL(q3_4.decode<float>(0xabcdef80u), -8.0f);  // bits above the word are ignored
}

template <class Real>
void special_values(const FixedPoint& fixed) {
    using Limits = std::numeric_limits<Real>;
    test::context = "word bits " + test::shown(fixed.word_bits) + ", fraction bits " +
                    test::shown(fixed.fraction_bits) + ", bytes " + test::shown(sizeof(Real));
    const std::uint32_t highest = fixed.word_mask() >> 1;
    const std::uint32_t lowest = highest + 1;

    CHECK_EQUAL(fixed.encode(Limits::quiet_NaN()), 0u);
    CHECK_EQUAL(fixed.encode(-Limits::quiet_NaN()), 0u);
    for (const Real zero : {Real{0}, -Real{0}, Limits::denorm_min(), -Limits::denorm_min(),
                            Limits::min(), -Limits::min()})
        CHECK_EQUAL(fixed.encode(zero), 0u);
    CHECK(!std::signbit(fixed.decode<Real>(0)));

    const Real edge = std::ldexp(
        Real{1}, static_cast<int>(fixed.word_bits - 1) - static_cast<int>(fixed.fraction_bits));
    for (const Real high : {Limits::infinity(), Limits::max(), edge, edge * 2})
        CHECK_EQUAL(fixed.encode(high), highest);
    for (const Real low : {-Limits::infinity(), Limits::lowest(), -edge, -edge * 2})
        CHECK_EQUAL(fixed.encode(low), lowest);
    test::context.clear();
}

void rounding_goes_to_nearest_and_ties_to_even() {
    for (const FixedPoint& fixed : {q3_4, q7_8, q15_16, q31_0, FixedPoint{16, 15}})
        for (int word = -100; word < 100; ++word) {
            const double unit = std::ldexp(1.0, -static_cast<int>(fixed.fraction_bits));
            const auto stored = [&](int value) {
                return static_cast<std::uint32_t>(value) & fixed.word_mask();
            };
            const double tie = (word + 0.5) * unit;
            CHECK_EQUAL(fixed.encode(tie), stored(word % 2 == 0 ? word : word + 1));
            CHECK_EQUAL(fixed.encode(std::nextafter(tie, -1e9)), stored(word));
            CHECK_EQUAL(fixed.encode(std::nextafter(tie, 1e9)), stored(word + 1));
            CHECK_EQUAL(fixed.encode(word * unit), stored(word));
        }
}

/// Half a unit above the highest value still saturates; no value wraps to the other sign.
void edges_do_not_wrap() {
    CHECK_EQUAL(q3_4.encode(8.0 - 0x1p-5), 0x7fu);
    CHECK_EQUAL(q3_4.encode(std::nextafter(8.0 - 0x1p-5, 0.0)), 0x7fu);
    CHECK_EQUAL(q3_4.encode(-8.0 - 0x1p-5), 0x80u);
    CHECK_EQUAL(q3_4.encode(-8.1f), 0x80u);
    CHECK_EQUAL(q0_31.encode(std::nextafter(1.0, 0.0)), 0x7fffffffu);
    CHECK_EQUAL(q0_31.encode(1.0f), 0x7fffffffu);
    CHECK_EQUAL(q15_16.encode(32768.0f), 0x7fffffffu);
    CHECK_EQUAL(q15_16.encode(q15_16.decode<float>(0x7fffffffu)), 0x7fffffffu);
}

void single_flips_of_a_weight() {
    const std::uint32_t word = q15_16.encode(0.05);
    const struct {
        int bit;
        double value;
    } flips[] = {{31, -32767.95}, {30, 16384.05}, {20, 16.05}, {16, 1.05}};
    for (const auto& flip : flips) {
        const double value = q15_16.decode<double>(word ^ (std::uint32_t{1} << flip.bit));
        CHECK(std::fabs(value - flip.value) <= 0x1p-17);
    }
}

template <class Real>
void every_word_round_trips(const FixedPoint& fixed) {
    for (std::uint32_t word = 0; word <= fixed.word_mask(); ++word)
        CHECK_EQUAL(fixed.encode(fixed.decode<Real>(word)), word);
}

}  // namespace

int main() {
    known_words();
    for (const FixedPoint& fixed : {q15_16, q3_4, q0_31, q7_8, q31_0, q1_0}) {
        special_values<float>(fixed);
        special_values<double>(fixed);
    }
    rounding_goes_to_nearest_and_ties_to_even();
    edges_do_not_wrap();
    single_flips_of_a_weight();
    for (const FixedPoint& fixed : {q1_0, q3_4, q7_8}) {
        every_word_round_trips<float>(fixed);
        every_word_round_trips<double>(fixed);
    }
    for (std::uint64_t word = 0; word < std::uint64_t{1} << 32; word += 65537)
        CHECK_EQUAL(q15_16.encode(q15_16.decode<double>(static_cast<std::uint32_t>(word))),
                    static_cast<std::uint32_t>(word));
    return test::summary();
}
