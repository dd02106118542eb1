// Tests numbers with shared scales: which scale an element has, every word under many scales, and
// rounding in memory.
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <vector>

#include "../cpu/changed_scales.hpp"
#include "../cpu/flips.hpp"
#include "../cpu/rounding.hpp"
#include "accepted_formats.hpp"
#include "check.hpp"

using namespace proact;
using test::shown;

namespace {

const SmallFloat e2m1{2, 1, 1, false, false}, e4m3{4, 3, 7, false, true},
    e5m2{5, 2, 15, true, true};

template <class Numbers>
std::uintptr_t address_of(const Numbers& numbers) {
    return reinterpret_cast<std::uintptr_t>(numbers.data());
}

/// Each row is counted off block by block.
void blocks_begin_anew_in_each_row() {
    for (const std::uint64_t row : {1u, 5u, 32u, 33u})
        for (const std::uint64_t block : {1u, 4u, 16u, 32u}) {
            const std::uint64_t in_row = (row + block - 1) / block;
            for (const bool are_shared : {false, true}) {
                const Scales scales{0, 3 * in_row, row, block, are_shared ? 0 : in_row};
                std::uint64_t element = 0;
                for (std::uint64_t r = 0; r < 3; ++r)
                    for (std::uint64_t begin = 0, b = 0; begin < row; begin += block, ++b)
                        for (std::uint64_t i = begin; i < row && i < begin + block; ++i) {
                            CHECK_EQUAL(scales.run_end(element),
                                        r * row + std::min(row, begin + block));
                            CHECK_EQUAL(scales.number(element++),
                                        b + (are_shared ? 0 : r * in_row));
                        }
            }
        }
}

void scales_must_cover_the_tensor() {
    const auto is_accepted = [](std::uint64_t words, const Scales& scales) {
        try {
            TensorMemory{0, words, 4, 1, 1, ScaledFloats{e2m1, scales}}.check();
            return true;
        } catch (const std::invalid_argument&) {
            return false;
        }
    };
    CHECK(is_accepted(99, {0, 6, 33, 32, 2}));
    CHECK(!is_accepted(99, {0, 5, 33, 32, 2}));
    CHECK(!is_accepted(100, {0, 6, 33, 32, 2}));
    CHECK(is_accepted(1000, {0, 2, 33, 32, 0}));
    CHECK(!is_accepted(1000, {0, 1, 33, 32, 0}));
    CHECK(is_accepted(20, {0, 1, 33, 32, 2}));
    for (const Scales& none : {Scales{0, 0, 1, 1, 1}, Scales{0, 9, 0, 1, 1}, Scales{0, 9, 9, 0, 1}})
        CHECK(!is_accepted(3, none));
}

/// A scaled word means its plain value times the scale, and its value has no other word.
template <class Real>
void words_of_floats_keep_their_place(const SmallFloat& element) {
    for (const float scale : {1.0f, 0x1p-9f, 0x1p40f, 3.0f * 0x1p-12f, 0x1.8p-30f}) {
        const ScaledFloat scaled{element, scale};
        for (std::uint32_t word = 0; word < 1u << element.word_bits(); ++word) {
            const auto plain = element.decode<double>(word);
            const Real value = scaled.decode<Real>(word);
            CHECK_IN(shown(word), scaled.encode(value) == word);
            if (std::isnan(plain)) {
                CHECK_IN(shown(word), std::isnan(value));
                continue;
            }
            CHECK_IN(shown(word), static_cast<double>(value) == plain * scale);
            if (std::isinf(value)) continue;
            // Between two words, the nearer one.
            const double above =
                element.decode<double>(word + 1 < 1u << element.word_bits() ? word + 1 : word);
            if (!(above > plain) || std::isinf(above)) continue;
            const auto near = static_cast<Real>((plain + 0.49 * (above - plain)) * scale);
            CHECK_IN(shown(word), scaled.encode(near) == word);
        }
        CHECK(std::isnan(scaled.decode<Real>(scaled.encode(std::nan("")))) == element.has_nan);
    }
}

void integers_with_zeros() {
    for (const std::int32_t zero : {0, 1, 8, 15}) {
        const ScaledInteger four{0.25f, 4, false, zero};
        for (std::uint32_t word = 0; word < 16; ++word) {
            const double value = (static_cast<int>(word) - zero) * 0.25;
            CHECK_EQUAL(four.decode<double>(word), value);
            CHECK_EQUAL(four.encode(value + 0.1), word);
            CHECK_EQUAL(four.encode(static_cast<float>(value)), word);
        }
        CHECK_EQUAL(four.encode(1e9), 15u);
        CHECK_EQUAL(four.encode(-1e9), 0u);
        CHECK_EQUAL(four.encode(std::nan("")), static_cast<std::uint32_t>(zero));
    }
    const std::vector<float> scales{1.0f, 2.0f};
    const std::vector<std::int32_t> zeros{3, 7};
    const ScaledIntegers both{4, {address_of(scales), 2, 4, 2, 2}, false, address_of(zeros)};
    CHECK_EQUAL(both.at(1).zero, 3);
    CHECK_EQUAL(both.at(2).zero, 7);
    CHECK_EQUAL(both.at(3).decode<double>(0), -14.0);
}

template <class Real>
void memory_is_rounded() {
    const std::vector<float> scales{1.0f, 0.5f, 4.0f};
    const ScaledFloats floats{e2m1, {address_of(scales), 3, 70000, 30000, 3}};
    std::vector<Real> values(70000);
    for (std::size_t i = 0; i < values.size(); ++i)
        values[i] = static_cast<Real>(std::sin(static_cast<double>(i)) * 7);
    for (const unsigned threads : {1u, 3u}) {
        std::vector<Real> rounded = values;
        round_to_words({address_of(rounded), rounded.size(), sizeof(Real), 0, 1, floats}, threads);
        for (std::size_t i = 0; i < values.size(); ++i) {
            const float scale = scales[i / 30000];
            const ScaledFloat here{e2m1, scale};
            CHECK(rounded[i] == here.decode<Real>(here.encode(values[i])));
        }
    }
    std::vector<Real> one{Real(1)};
    const auto round = [&](const NumberFormat& format) {
        round_to_words({address_of(one), 1, sizeof(Real), 0, 1, format}, 1);
    };
    CHECK_THROWS(std::invalid_argument, round(MemoryWords{}));
    CHECK_THROWS(std::invalid_argument, round(Unread{8}));
    CHECK_THROWS(std::invalid_argument,
                 round(ScaledFloats{e2m1, {address_of(scales), 0, 1, 1, 1}}));
}

/// Numbers whose scale, zero point or tensor scale is flipped are read again, the others stay, and
/// a log brings them back.
template <class Real>
void changed_scales_are_read_again() {
    constexpr std::uint64_t rows = 5, row = 33, block = 8, stride = 5, size = rows * row;
    std::vector<std::uint8_t> exponents(rows * stride);
    std::vector<std::uint8_t> zeros_stored(rows * stride);
    std::vector<float> whole{0.75f}, clean(rows * stride);
    std::vector<std::int32_t> zeros(rows * stride);
    for (std::size_t i = 0; i < exponents.size(); ++i) {
        exponents[i] = static_cast<std::uint8_t>(120 + i % 9);
        zeros_stored[i] = static_cast<std::uint8_t>(i % 16);
        zeros[i] = static_cast<std::int32_t>(i % 16);
        clean[i] = std::ldexp(0.75f * 0.25f, static_cast<int>(exponents[i]) - 127);
    }
    const Scales blocks{0, rows * stride, row, block, stride};
    std::vector<Real> values(size);
    const auto value_of = [&](std::uint64_t i) {
        const std::uint64_t number = blocks.number(i);
        const double scale = std::ldexp(whole[0] * 0.25, static_cast<int>(exponents[number]) - 127);
        const auto word = static_cast<double>(i * 7 % 16);
        return static_cast<Real>((word - zeros_stored[number]) * scale);
    };
    for (std::uint64_t i = 0; i < size; ++i) values[i] = value_of(i);
    const std::vector<Real> before = values;

    using Kind = ScaleWord::Kind;
    const auto bytes = [](std::vector<std::uint8_t>& words, std::uint64_t stream) {
        return TensorMemory{address_of(words), words.size(), 1, stream, 0xf};
    };
    FaultPlan plan;
    plan.add(bytes(exponents, 1));
    plan.add(bytes(zeros_stored, 2));
    plan.add({address_of(whole), 1, 4, 3, 0xffffffff});
    ChangedScales scales;
    Scales laid_out = blocks;
    laid_out.address = address_of(clean);
    scales.add({{address_of(values), size, sizeof(Real), 0, 1},
                laid_out,
                address_of(zeros),
                0.25,
                false,
                {{address_of(exponents), 1, {Kind::power_of_two}, blocks, false},
                 {address_of(whole), 4, {Kind::float32}, {0, 1, size, size, 1}, false},
                 {address_of(zeros_stored), 1, {Kind::integer}, blocks, true}}});

    const std::uint32_t tensor[] = {0, 0, 1, 1, 2};
    const std::uint64_t element[] = {4, 11, 11, 24, 0};
    const std::uint8_t bit[] = {1, 0, 2, 3, 21};
    for (const std::size_t flips : {std::size_t{2}, std::size_t{4}, std::size_t{5}}) {
        FlipLog log, reread;
        plan.flip_places_into(log, {tensor, element, bit, flips});
        scales.reread_into(reread, log);
        std::size_t different = 0;
        for (std::uint64_t i = 0; i < size; ++i) {
            CHECK_IN(shown(i), values[i] == value_of(i));
            different += values[i] != before[i] ? 1 : 0;
        }
        CHECK(different > 0);
        CHECK_EQUAL(reread.size(), flips == 5 ? size : flips == 4 ? 10u : 9u);
        reread.restore();
        log.restore();
        CHECK(values == before);
    }
}

}  // namespace

int main() {
    changed_scales_are_read_again<float>();
    changed_scales_are_read_again<double>();
    blocks_begin_anew_in_each_row();
    scales_must_cover_the_tensor();
    for (const SmallFloat& element : {e2m1, e4m3, e5m2}) {
        words_of_floats_keep_their_place<float>(element);
        words_of_floats_keep_their_place<double>(element);
    }
    integers_with_zeros();
    memory_is_rounded<float>();
    memory_is_rounded<double>();
    return test::summary();
}
