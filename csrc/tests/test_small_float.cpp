// Tests small floats: every word of many formats, and the values around each, against slow
// formulas.
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>

#include "accepted_formats.hpp"
#include "check.hpp"

using namespace proact;
using test::shown;

namespace {

/// An independent implementation, by search among all words.
struct Meaning {
    SmallFloat format;

    std::uint32_t sign() const { return 1u << (format.exponent_bits + format.mantissa_bits); }
    std::uint32_t infinity() const { return sign() - (1u << format.mantissa_bits); }
    std::uint32_t largest() const {
        return format.has_infinity ? infinity() - 1 : sign() - 1 - (format.has_nan ? 1 : 0);
    }
    /// The value of a magnitude, as if the highest exponent had no special meaning.
    long double place(std::uint32_t magnitude) const {
        const std::uint32_t one = 1u << format.mantissa_bits;
        const auto exponent = static_cast<int>(magnitude / one);
        const std::uint32_t mantissa = magnitude % one + (exponent == 0 ? 0 : one);
        return std::ldexp(
            static_cast<long double>(mantissa),
            std::max(exponent, 1) - format.bias - static_cast<int>(format.mantissa_bits));
    }
    long double value(std::uint32_t word) const {
        const std::uint32_t magnitude = word % sign();
        long double value = place(magnitude);
        if (magnitude > largest())
            value = format.has_infinity && magnitude == infinity()
                        ? std::numeric_limits<long double>::infinity()
                        : std::numeric_limits<long double>::quiet_NaN();
        return word < sign() ? value : -value;
    }
    std::uint32_t word(long double x) const {
        const std::uint32_t most = largest() + (format.has_infinity ? 1 : 0);
        const long double magnitude = std::fabs(x);
        std::uint32_t below = 0, above = most;
        while (above - below > 1) {
            const std::uint32_t middle = below + (above - below) / 2;
            (place(middle) <= magnitude ? below : above) = middle;
        }
        const long double down = magnitude - place(below), up = place(above) - magnitude;
        const bool is_below = down < up || (down == up && below % 2 == 0);
        return (is_below ? below : above) + (std::signbit(x) ? sign() : 0);
    }
};

template <class Real>
void every_word_and_what_is_around(const SmallFloat& format) {
    const Meaning meaning{format};
    const auto encodes = [&](Real x) {
        CHECK_IN(shown(x), format.encode(x) == meaning.word(static_cast<long double>(x)));
    };
    for (std::uint32_t word = 0; word < 2 * meaning.sign(); ++word) {
        const Real value = format.decode<Real>(word);
        const long double expected = meaning.value(word);
        CHECK_IN(shown(word), format.encode(value) == word);
        CHECK_IN(shown(word), std::isnan(value) == std::isnan(expected));
        if (std::isnan(value)) continue;
        CHECK_IN(shown(word), static_cast<long double>(value) == expected &&
                                  std::signbit(value) == std::signbit(expected));
        const std::uint32_t magnitude = word % meaning.sign();
        if (std::isinf(value) || magnitude > meaning.largest()) continue;
        const auto tie = std::copysign(
            static_cast<Real>((meaning.place(magnitude) + meaning.place(magnitude + 1)) / 2),
            value);
        for (const Real toward : {std::numeric_limits<Real>::lowest(), tie, Real(1e38)})
            encodes(std::nextafter(tie, toward));
    }
    using Limits = std::numeric_limits<Real>;
    for (const Real x : {Limits::max(), Limits::lowest(), Limits::denorm_min(), Limits::min(),
                         -Limits::denorm_min(), Real{0}, -Real{0}, Real(1e30), Real(-3e-8),
                         Limits::infinity(), -Limits::infinity()})
        encodes(x);
    for (const Real nan : {Limits::quiet_NaN(), -Limits::quiet_NaN()}) {
        const std::uint32_t word = format.encode(nan);
        CHECK(format.has_nan ? std::isnan(format.decode<Real>(word)) : word == 0);
    }
}

bool is_accepted(const SmallFloat& format, std::uint32_t word_bytes = 4, std::uint64_t mask = 1) {
    return test::is_accepted(format, word_bytes, mask);
}

void invalid_formats_are_rejected() {
    for (const std::uint32_t bytes : {1u, 2u, 4u, 8u})
        CHECK_IN(shown(bytes), is_accepted({4, 3, 7, false, true}, bytes) == (bytes >= 4));
    CHECK(!is_accepted({0, 3, 7, false, true}));
    CHECK(!is_accepted({9, 3, 7, false, true}));
    CHECK(!is_accepted({8, 8, 127, true, true}));
    CHECK(!is_accepted({1, 0, 0, false, false}));
    CHECK(!is_accepted({4, 3, 5000, false, true}));
    CHECK(!is_accepted({4, 3, 7, true, false}));
    CHECK(!is_accepted({4, 0, 7, true, true}));
    CHECK(is_accepted({4, 3, 7, false, true}, 4, 0x80));
    CHECK(!is_accepted({4, 3, 7, false, true}, 4, 0x100));
}

}  // namespace

int main() {
    for (std::uint32_t exponent = 1; exponent <= 8; ++exponent)
        for (std::uint32_t mantissa = 0; mantissa <= 14; ++mantissa) {
            const std::uint32_t bits = 1 + exponent + mantissa;
            if (bits < 3 || bits > 16 || (bits > 10 && bits < 16)) continue;
            const int usual = (1 << (exponent - 1)) - 1;
            for (const int bias : {usual, usual + 1, usual - 3}) {
                if (bits == 16 && bias != usual) continue;
                for (const int specials : {0, 1, 2}) {
                    const SmallFloat format{exponent, mantissa, bias, specials == 2, specials > 0};
                    if (format.has_infinity && mantissa == 0) continue;
                    // Values of the largest exponents must be values of float32.
                    if (exponent == 8 && (bias < usual || specials < 2)) continue;
                    test::context = "e" + shown(exponent) + "m" + shown(mantissa) + "b" +
                                    shown(bias) + " " + shown(specials);
                    every_word_and_what_is_around<float>(format);
                    every_word_and_what_is_around<double>(format);
                }
            }
        }
    test::context.clear();
    invalid_formats_are_rejected();
    return test::summary();
}
