// The memory of one tensor as fault injection uses it, and the block laws of a plan of tensors.
#pragma once

#include <cstdint>
#include <map>
#include <stdexcept>
#include <string>
#include <vector>

#include "fault_block.hpp"
#include "number_formats.hpp"

namespace proact {

inline std::uint32_t bit_count(std::uint64_t mask) {
    std::uint32_t bits = 0;
    for (; mask != 0; mask &= mask - 1) ++bits;
    return bits;
}

/// A tensor's address, size, stored format and exposed bits. The caller keeps the memory alive.
struct TensorMemory {
    std::uintptr_t address;
    std::uint64_t words;       // number of elements
    std::uint32_t word_bytes;  // 1, 2, 4 or 8
    std::uint64_t stream;
    std::uint64_t mask;  // exposed bits of a stored word
    NumberFormat format = MemoryWords{};

    template <class Format>
    bool is_stored_as() const {
        return std::holds_alternative<Format>(format);
    }
    std::uint32_t stored_bits() const {
        if (const auto* fixed = std::get_if<FixedPoint>(&format)) return fixed->word_bits;
        if (const auto* integers = std::get_if<ScaledIntegers>(&format)) return integers->word_bits;
        if (const auto* floats = std::get_if<ScaledFloats>(&format))
            return floats->element.word_bits();
        if (const auto* small = std::get_if<SmallFloat>(&format)) return small->word_bits();
        if (const auto* unread = std::get_if<Unread>(&format)) return unread->word_bits;
        if (is_stored_as<MemoryWords>()) return 8 * word_bytes;
        return is_stored_as<StoredFloat>() ? 32 : 16;
    }
    std::uint32_t exposed_bits_per_word() const { return bit_count(mask); }

    /// Throws std::invalid_argument if the description is inconsistent.
    void check() const {
        if (word_bytes != 1 && word_bytes != 2 && word_bytes != 4 && word_bytes != 8)
            throw std::invalid_argument("expected words of 1, 2, 4 or 8 bytes, got " +
                                        std::to_string(word_bytes));
        check_format();
        if (mask == 0 || (stored_bits() < 64 && mask >> stored_bits() != 0))
            throw std::invalid_argument(
                "expected a bit mask that exposes at least one of the lowest " +
                std::to_string(stored_bits()) + " bits and no others, got " + std::to_string(mask));
        if (stream >> proact::stream_bits != 0)
            throw std::invalid_argument("expected a stream below 2^48, got " +
                                        std::to_string(stream));
        // A block number has 32 bits, and the smallest block has one word.
        if (words > std::uint64_t{1} << 32)
            throw std::invalid_argument("expected at most 2^32 elements, got " +
                                        std::to_string(words));
    }

   private:
    void check_format() const {
        if (const auto* fixed = std::get_if<FixedPoint>(&format))
            if (word_bytes < 4 || fixed->word_bits < 2 || fixed->word_bits > 32 ||
                fixed->fraction_bits >= fixed->word_bits)
                throw std::invalid_argument(
                    "fixed point expects words of 4 or 8 bytes in memory, 2 to 32 stored bits and "
                    "fewer fraction bits, got " +
                    std::to_string(word_bytes) + " bytes, " + std::to_string(fixed->word_bits) +
                    " stored bits and " + std::to_string(fixed->fraction_bits) + " fraction bits");
        if (const auto* integers = std::get_if<ScaledIntegers>(&format)) {
            if (word_bytes < 4 || integers->word_bits < 2 || integers->word_bits > 16)
                throw std::invalid_argument(
                    "scaled integers expect words of 4 or 8 bytes in memory and 2 to 16 stored "
                    "bits, got " +
                    std::to_string(word_bytes) + " bytes and " +
                    std::to_string(integers->word_bits) + " stored bits");
            check_scales(integers->scales);
        }
        if (const auto* floats = std::get_if<ScaledFloats>(&format)) {
            check_small_float(floats->element);
            check_scales(floats->scales);
        }
        if ((is_stored_as<StoredHalf<Float16>>() || is_stored_as<StoredHalf<BFloat16>>()) &&
            word_bytes != 4)
            throw std::invalid_argument(
                "float16 and bfloat16 formats expect float32 memory, got words of " +
                std::to_string(word_bytes) + " bytes");
        if (is_stored_as<StoredFloat>() && word_bytes != 8)
            throw std::invalid_argument("the float32 format expects float64 memory, got words of " +
                                        std::to_string(word_bytes) + " bytes");
        if (const auto* small = std::get_if<SmallFloat>(&format)) check_small_float(*small);
        if (const auto* unread = std::get_if<Unread>(&format))
            if (unread->word_bits == 0 || unread->word_bits > 64)
                throw std::invalid_argument("expected stored words of 1 to 64 bits, got " +
                                            std::to_string(unread->word_bits));
    }
    void check_scales(const Scales& scales) const {
        if (!scales.cover(words))
            throw std::invalid_argument(
                "expected a scale for each of " + std::to_string(words) + " elements, got " +
                std::to_string(scales.count) + " scales in rows of " + std::to_string(scales.row) +
                " elements with blocks of " + std::to_string(scales.block) + " elements");
    }
    void check_small_float(const SmallFloat& format) const {
        const std::uint32_t exponent = format.exponent_bits, mantissa = format.mantissa_bits;
        const bool fits = exponent >= 1 && exponent <= 8 && mantissa <= 14 &&
                          1 + exponent + mantissa >= 3 && 1 + exponent + mantissa <= 16;
        if (word_bytes < 4 || !fits || format.bias < -1000 || format.bias > 1000)
            throw std::invalid_argument(
                "small floats expect words of 4 or 8 bytes in memory, 1 to 8 exponent bits, 3 to "
                "16 bits in all and a bias between -1000 and 1000, got " +
                std::to_string(word_bytes) + " bytes, " + std::to_string(exponent) +
                " exponent bits, " + std::to_string(mantissa) + " mantissa bits and the bias " +
                std::to_string(format.bias));
        if (format.has_infinity && (!format.has_nan || mantissa == 0))
            throw std::invalid_argument("small floats with infinity need NaN and a mantissa bit");
    }
};

inline std::uint64_t exposed_bits(const std::vector<TensorMemory>& tensors) {
    std::uint64_t bits = 0;
    for (const TensorMemory& tensor : tensors)
        bits += tensor.words * tensor.exposed_bits_per_word();
    return bits;
}

/// The binomial tables for one BER, built on first use. Tensors with the same block size share a
/// table.
class BlockLaws {
   public:
    explicit BlockLaws(double ber)
        : inverted_(ber > 0.5), draw_probability_(inverted_ ? 1.0 - ber : ber) {}

    BlockLaw of(const TensorMemory& tensor) {
        const std::uint32_t bits_per_word = tensor.exposed_bits_per_word();
        const std::uint32_t log2 = block_words_log2(draw_probability_, bits_per_word, tensor.words);
        const std::uint64_t bits = std::uint64_t{bits_per_word} << log2;
        const auto table = tables_.try_emplace(bits, bits, draw_probability_).first;
        return {log2, bits_per_word, inverted_, table->second.view()};
    }

   private:
    bool inverted_;
    double draw_probability_;
    std::map<std::uint64_t, BinomialTable> tables_;
};

}  // namespace proact
