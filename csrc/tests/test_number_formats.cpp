// Tests number formats: their arithmetic against slow formulas, and the tensors that they reject.
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <stdexcept>
#include <utility>
#include <vector>

#include "accepted_formats.hpp"
#include "check.hpp"

using namespace proact;
using test::is_accepted;
using test::shown;

namespace {

/// Returns the integer in [low, high] whose value is nearest to x, or the even one of two equally
/// near.
template <class Place>
std::int64_t nearest(long double x, std::int64_t low, std::int64_t high, Place place) {
    while (high - low > 1) {
        const std::int64_t middle = low + (high - low) / 2;
        (place(middle) <= x ? low : high) = middle;
    }
    const long double below = x - place(low), above = place(high) - x;
    return below < above || (below == above && low % 2 == 0) ? low : high;
}

/// An independent implementation of scaled integers.
struct IntegerMeaning {
    std::uint32_t word_bits;
    float scale;

    std::int64_t words() const { return std::int64_t{1} << word_bits; }
    long double place(std::int64_t integer) const {
        return static_cast<long double>(integer) * static_cast<long double>(scale);
    }
    long double value(std::uint32_t word) const {
        return place(word < words() / 2 ? std::int64_t{word} : std::int64_t{word} - words());
    }
    std::uint32_t word(long double x) const {
        if (std::isnan(x)) return 0;
        const std::int64_t integer =
            nearest(x, -words() / 2, words() / 2 - 1, [this](std::int64_t n) { return place(n); });
        return static_cast<std::uint32_t>(integer < 0 ? integer + words() : integer);
    }
};

/// An independent implementation of the IEEE 754 formats.
struct FloatMeaning {
    int mantissa_bits, exponent_bits;

    std::uint32_t sign() const { return 1u << (mantissa_bits + exponent_bits); }
    std::uint32_t infinity() const { return sign() - (1u << mantissa_bits); }
    /// For rounding to nearest, infinity represents the next power of two.
    long double place(std::int64_t magnitude) const {
        const std::int64_t one = std::int64_t{1} << mantissa_bits;
        const int exponent = static_cast<int>(magnitude / one), bias = (1 << exponent_bits) / 2 - 1;
        const std::int64_t mantissa = magnitude % one + (exponent == 0 ? 0 : one);
        return std::ldexp(static_cast<long double>(mantissa),
                          std::max(exponent, 1) - bias - mantissa_bits);
    }
    long double value(std::uint32_t word) const {
        const std::uint32_t magnitude = word % sign();
        if (magnitude > infinity()) return std::numeric_limits<long double>::quiet_NaN();
        const long double value = magnitude == infinity() ? HUGE_VALL : place(magnitude);
        return word < sign() ? value : -value;
    }
    std::uint32_t word(long double x) const {
        if (std::isnan(x)) return infinity() + (1u << (mantissa_bits - 1));
        const std::int64_t magnitude =
            nearest(std::fabs(x), 0, infinity(), [this](std::int64_t m) { return place(m); });
        return static_cast<std::uint32_t>(magnitude) + (std::signbit(x) ? sign() : 0);
    }
};

constexpr FloatMeaning float16{10, 5}, bfloat16{7, 8}, float32{23, 8};

/// Powers of two, 0.003 with 17 and with 24 significant bits, and the smallest scale that
/// quantizers use.
constexpr float scales[] = {1.0f, 0x1p-7f, 100663 * 0x1p-25f, 0.003f, 0x1p-23f};
const auto scales_address = reinterpret_cast<std::uintptr_t>(scales);

template <class Real>
bool same(Real a, long double b) {
    if (std::isnan(a) || std::isnan(b)) return std::isnan(a) && std::isnan(b);
    return static_cast<long double>(a) == b && std::signbit(a) == std::signbit(b);
}

template <class Real>
std::vector<Real> odd_values() {
    using Limits = std::numeric_limits<Real>;
    return {Limits::quiet_NaN(), Limits::infinity(), -Limits::infinity(),   -Real{0},
            Limits::max(),       Limits::lowest(),   Limits::denorm_min(),  Limits::min(),
            Real(1e30),          Real(-70000),       -Limits::denorm_min(), Real(3e-8)};
}

void known_words_of_integers() {
    const ScaledInteger bytes{1.0f, 8}, fine{0x1p-7f, 8};
    const std::pair<double, std::uint32_t> known[] = {
        {0.5, 0},       {-0.5, 0},     {1.5, 2},      {2.5, 2},      {-1.5, 0xfe},
        {-2.5, 0xfe},   {-1.0, 0xff},  {126.5, 126},  {127.0, 0x7f}, {127.5, 0x7f},
        {-127.5, 0x80}, {-128., 0x80}, {-129., 0x80}, {1e300, 0x7f}, {-1e300, 0x80}};
    for (const auto& [value, word] : known) {
        test::context = shown(value);
        CHECK_EQUAL(bytes.encode(value), word);
        CHECK_EQUAL(bytes.encode(static_cast<float>(value)), word);
        CHECK_EQUAL(fine.encode(value * 0x1p-7), word);
    }
    test::context.clear();
    CHECK_EQUAL(bytes.decode<double>(0x80), -128.0);
    CHECK_EQUAL(fine.decode<float>(0x7f), 127.0f / 128.0f);
}

template <class Real>
void integers_round_saturate_and_round_trip(float scale, std::uint32_t word_bits) {
    const ScaledInteger format{scale, word_bits};
    const IntegerMeaning meaning{word_bits, scale};
    const auto encodes = [&](Real x) {
        CHECK_IN("scale " + shown(scale) + ", bits " + shown(word_bits) + ", value " + shown(x),
                 format.encode(x) == meaning.word(static_cast<long double>(x)));
    };
    for (std::uint32_t word = 0; word < meaning.words(); ++word) {
        const Real value = format.decode<Real>(word);
        CHECK_IN(shown(word), same(value, static_cast<Real>(meaning.value(word))));
        CHECK_IN(shown(word), format.encode(value) == word);
        const auto tie = static_cast<Real>(meaning.value(word) + meaning.place(1) / 2);
        for (const Real toward : {Real(-1e9), tie, Real(1e9)}) encodes(std::nextafter(tie, toward));
    }
    for (const Real x : odd_values<Real>()) encodes(x);
    const std::int64_t words = meaning.words();
    for (const std::int64_t beyond : {-words, -words / 2 - 1, words / 2, words})
        encodes(static_cast<Real>(meaning.place(beyond)));
    CHECK_EQUAL(format.encode(-std::numeric_limits<Real>::quiet_NaN()), 0u);
}

/// Scales for `channels` channels of `inner` elements, again and again.
ScaledIntegers integers(std::uint32_t bits, std::uint64_t channels, std::uint64_t inner) {
    return {bits, {scales_address, channels, channels * inner, inner, 0}};
}

void channels_have_their_own_scales() {
    for (const std::uint64_t channels : {1u, 2u, 3u, 5u})
        for (const std::uint64_t inner : {1u, 2u, 9u, 1000u}) {
            const ScaledIntegers format = integers(8, channels, inner);
            for (std::uint64_t element = 0; element < 3 * channels * inner;)
                for (std::uint64_t channel = 0; channel < channels; ++channel)
                    for (std::uint64_t i = 0; i < inner; ++i) {
                        const ScaledInteger here = format.at(element++);
                        CHECK(here.scale == scales[channel] && here.word_bits == 8);
                    }
        }
}

template <class Real, class Format>
void floats_round_and_round_trip(const Format& format, const FloatMeaning& meaning,
                                 std::uint64_t stride) {
    for (std::uint64_t i = 0; i < std::uint64_t{2} * meaning.sign(); i += stride) {
        const auto word = static_cast<std::uint32_t>(i);
        const Real value = format.template decode<Real>(word);
        CHECK_IN(shown(word), same(value, meaning.value(word)));
        if (std::isnan(value)) {
            CHECK_IN(shown(word), format.encode(value) == word);
            continue;
        }
        CHECK_IN(shown(word), format.encode(value) == word);
        if (std::isinf(value)) continue;
        const std::uint32_t magnitude = word % meaning.sign();
        const long double middle = (meaning.place(magnitude) + meaning.place(magnitude + 1)) / 2;
        const auto tie = std::copysign(static_cast<Real>(middle), value);
        for (const Real toward : {std::numeric_limits<Real>::lowest(), tie, Real(1e38)}) {
            const Real x = std::nextafter(tie, toward);
            CHECK_IN(shown(x), format.encode(x) == meaning.word(static_cast<long double>(x)));
        }
    }
    for (const Real x : odd_values<Real>())
        CHECK_IN(shown(x), format.encode(x) == meaning.word(static_cast<long double>(x)));
}

void invalid_formats_are_rejected() {
    for (const std::uint32_t bytes : {0u, 1u, 2u, 3u, 4u, 8u, 16u}) {
        test::context = shown(bytes) + " bytes";
        const bool is_real = bytes == 4 || bytes == 8;
        CHECK_EQUAL(is_accepted(integers(8, 5, 1), bytes), is_real);
        CHECK_EQUAL(is_accepted(StoredHalf<Float16>{}, bytes), bytes == 4);
        CHECK_EQUAL(is_accepted(StoredHalf<BFloat16>{}, bytes), bytes == 4);
        CHECK_EQUAL(is_accepted(StoredFloat{}, bytes), bytes == 8);
        CHECK_EQUAL(is_accepted(Unread{64}, bytes), is_real || bytes == 1 || bytes == 2);
    }
    test::context.clear();
    for (const std::uint32_t bits : {0u, 1u, 17u, 32u, 64u, 0xffffffffu})
        CHECK_IN(shown(bits), !is_accepted(integers(bits, 5, 1), 4));
    for (const std::uint32_t bits : {0u, 65u, 0xffffffffu})
        CHECK_IN(shown(bits), !is_accepted(Unread{bits}, 1));
    CHECK(!is_accepted(integers(8, 0, 1), 4));
    CHECK(!is_accepted(integers(8, 5, 0), 4));
}

void masks_lie_within_the_stored_word() {
    const auto bits_are = [](std::uint32_t bits, const NumberFormat& format,
                             std::uint32_t word_bytes) {
        test::context = "format " + shown(format.index()) + ", bits " + shown(bits);
        for (std::uint32_t bit = 0; bit < 64; ++bit)
            CHECK_EQUAL(is_accepted(format, word_bytes, std::uint64_t{1} << bit), bit < bits);
        CHECK(!is_accepted(format, word_bytes, 0));
        test::context.clear();
    };
    for (const std::uint32_t bits : {2u, 7u, 8u, 16u}) bits_are(bits, integers(bits, 5, 1), 8);
    for (const std::uint32_t bits : {1u, 8u, 33u, 64u}) bits_are(bits, Unread{bits}, 1);
    bits_are(16, StoredHalf<Float16>{}, 4);
    bits_are(16, StoredHalf<BFloat16>{}, 4);
    bits_are(32, StoredFloat{}, 8);
}

}  // namespace

int main() {
    known_words_of_integers();
    for (const float scale : scales)
        for (const std::uint32_t word_bits : {2u, 3u, 4u, 5u, 6u, 7u, 8u, 16u}) {
            integers_round_saturate_and_round_trip<float>(scale, word_bits);
            integers_round_saturate_and_round_trip<double>(scale, word_bits);
        }
    channels_have_their_own_scales();
    floats_round_and_round_trip<float>(StoredHalf<Float16>{}, float16, 1);
    floats_round_and_round_trip<float>(StoredHalf<BFloat16>{}, bfloat16, 1);
    floats_round_and_round_trip<double>(StoredFloat{}, float32, 65521);
    invalid_formats_are_rejected();
    masks_lie_within_the_stored_word();
    return test::summary();
}
