// Tests float16 and bfloat16: every stored word, and rounding against exact arithmetic.
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <random>
#include <vector>

#include "../core/half.hpp"
#include "check.hpp"

using namespace proact;
using namespace proact::test;

namespace {

struct Format {
    int mantissa_bits, exponent_bits;
    int bias() const { return (1 << (exponent_bits - 1)) - 1; }
};

/// Returns the value of a word according to IEEE 754, in double.
double value_of(const Format& format, std::uint32_t word) {
    const std::uint32_t mantissa = word & ((1u << format.mantissa_bits) - 1);
    const int exponent =
        static_cast<int>(word >> format.mantissa_bits & ((1u << format.exponent_bits) - 1));
    const double sign = word >> 15 ? -1.0 : 1.0;
    if (exponent == (1 << format.exponent_bits) - 1)
        return mantissa == 0 ? sign * std::numeric_limits<double>::infinity()
                             : std::numeric_limits<double>::quiet_NaN();
    const double fraction = std::ldexp(mantissa, -format.mantissa_bits);
    return sign * (exponent == 0 ? std::ldexp(fraction, 1 - format.bias())
                                 : std::ldexp(1.0 + fraction, exponent - format.bias()));
}

bool same(double a, double b) {
    return (std::isnan(a) && std::isnan(b)) || (a == b && std::signbit(a) == std::signbit(b));
}

template <class Half>
void every_word_has_its_value(const Format& format) {
    for (std::uint32_t word = 0; word <= 0xffff; ++word) {
        const Half half{static_cast<std::uint16_t>(word)};
        const float value = Arithmetic<Half>::load(half);
        CHECK_IN(shown(word), same(static_cast<double>(value), value_of(format, word)));
        if (!std::isnan(value))
            CHECK_IN(shown(word), Arithmetic<Half>::store(value).word == half.word);
    }
}

/// Returns the nearest word: the one below or above, or the even one of two equally near.
template <class Half>
void rounds_to_nearest(const Format& format, float x) {
    const std::uint32_t word = Arithmetic<Half>::store(x).word;
    if (std::isnan(x)) {
        CHECK_IN(shown(x), std::isnan(value_of(format, word)));
        return;
    }
    CHECK_IN(shown(x), (word >> 15 != 0) == std::signbit(x));
    const std::uint32_t magnitude = word & 0x7fff;
    // For rounding to nearest, infinity represents the next power of two.
    const auto place = [&](std::uint32_t w) {
        return w == Half::infinity ? std::ldexp(1.0, format.bias() + 1) : value_of(format, w);
    };
    const double exact = std::fmin(std::fabs(static_cast<double>(x)), place(Half::infinity));
    const double distance = std::fabs(place(magnitude) - exact);
    for (const std::uint32_t other : {magnitude - 1, magnitude + 1}) {
        if (other > Half::infinity) continue;
        const double others = std::fabs(place(other) - exact);
        CHECK_IN(shown(x), distance < others || (distance == others && magnitude % 2 == 0));
    }
}

template <class Half>
void rounding(const Format& format) {
    for (std::uint64_t bits = 0; bits < std::uint64_t{1} << 32; bits += 4099) {
        const auto word = static_cast<std::uint32_t>(bits);
        float x;
        std::memcpy(&x, &word, sizeof x);
        rounds_to_nearest<Half>(format, x);
    }
    // Covers the neighbourhood of each word and the midpoint to the next.
    for (std::uint32_t word = 0; word < Half::infinity; ++word) {
        const double here = value_of(format, word), next = value_of(format, word + 1);
        const auto middle =
            static_cast<float>(std::isinf(next) ? here * 1.0001 : (here + next) / 2);
        for (const float x : {static_cast<float>(here), middle})
            for (const float near : {std::nextafter(x, -1.0f), x, std::nextafter(x, 3e38f)}) {
                rounds_to_nearest<Half>(format, near);
                rounds_to_nearest<Half>(format, -near);
            }
    }
}

}  // namespace

int main() {
    every_word_has_its_value<Float16>({10, 5});
    every_word_has_its_value<BFloat16>({7, 8});
    rounding<Float16>({10, 5});
    rounding<BFloat16>({7, 8});
    return summary();
}
