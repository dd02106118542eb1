// Flips bits of stored words in memory and records the old words, for every number format.
#pragma once

#include <cstdint>
#include <cstring>
#include <type_traits>
#include <variant>

#include "block_drawer.hpp"
#include "flip_log.hpp"

namespace proact {

/// Words whose memory representation is their stored form.
template <class Word>
class NativeWords {
   public:
    explicit NativeWords(const TensorMemory& tensor)
        : words_(reinterpret_cast<Word*>(tensor.address)) {}

    void prefetch(std::uint32_t element) const { __builtin_prefetch(words_ + element, 1); }

    /// Flips bit[i] of word element[i] for i < flips, all from one block. Writes each word as it
    /// was just before its flip to `before`.
    void flip(const std::uint32_t* element, const std::uint8_t* bit, std::uint32_t flips,
              std::byte* before) {
        Word* const words = words_;
        for (std::uint32_t i = 0; i < flips; ++i, before += sizeof(Word)) {
            Word& word = words[element[i]];
            const Word old = word;
            word = static_cast<Word>(old ^ (Word{1} << bit[i]));
            std::memcpy(before, &old, sizeof old);
        }
    }

   private:
    Word* words_;
};

/// Stored words that memory represents as floats.
///
/// A float has fewer digits than a 32-bit word, so encoding the float that a word decodes to can
/// give another word (16384.05 in q15.16 is an example). A second flip in a word must therefore
/// start from the stored word that the first flip left, not from the float. Blocks share no word,
/// so searching the flips of the current block is enough.
template <class Real, class Format>
class EncodedWords {
   public:
    EncodedWords(const TensorMemory& tensor, const Format& format, SeenFilter& seen)
        : reals_(reinterpret_cast<Real*>(tensor.address)), format_(format), seen_(seen) {}

    void prefetch(std::uint32_t element) const { __builtin_prefetch(reals_ + element, 1); }

    void flip(const std::uint32_t* element, const std::uint8_t* bit, std::uint32_t flips,
              std::byte* before) {
        SeenFilter::Round seen = seen_.start();
        for (std::uint32_t i = 0; i < flips; ++i) {
            Real& real = reals_[element[i]];
            std::memcpy(before + i * sizeof(Real), &real, sizeof real);
            const std::uint32_t word = seen.maybe_seen(element[i])
                                           ? word_before(element, bit, i, before)
                                           : format_at(format_, element[i]).encode(real);
            real = format_at(format_, element[i])
                       .template decode<Real>(word ^ (std::uint32_t{1} << bit[i]));
        }
    }

   private:
    /// Returns the stored word before flip number i of the block, with the earlier flips applied.
    std::uint32_t word_before(const std::uint32_t* element, const std::uint8_t* bit,
                              std::uint32_t i, const std::byte* before) const {
        std::uint32_t flipped = 0, first = i;
        for (std::uint32_t j = i; j-- > 0;)
            if (element[j] == element[i]) {
                flipped ^= std::uint32_t{1} << bit[j];
                first = j;
            }
        Real clean;
        std::memcpy(&clean, before + first * sizeof(Real), sizeof clean);
        return format_at(format_, element[i]).encode(clean) ^ flipped;
    }

    Real* reals_;
    Format format_;
    SeenFilter& seen_;
};

/// Memory that is not accessed. The log holds the elements and bits, with zeros as old words.
class UnreadWords {
   public:
    explicit UnreadWords(const TensorMemory& tensor) : word_bytes_(tensor.word_bytes) {}

    void prefetch(std::uint32_t) const {}
    void flip(const std::uint32_t*, const std::uint8_t*, std::uint32_t flips, std::byte* before) {
        if (flips != 0) std::memset(before, 0, std::size_t{flips} * word_bytes_);
    }

   private:
    std::uint32_t word_bytes_;
};

/// Calls `use` with the word class for the element size and number format of a tensor.
template <class Use>
class WordsVisitor {
   public:
    using Result = std::invoke_result_t<Use, UnreadWords>;

    WordsVisitor(const TensorMemory& memory, SeenFilter& seen, Use use)
        : memory_(memory), seen_(seen), use_(use) {}

    Result operator()(const MemoryWords&) const {
        switch (memory_.word_bytes) {
            case 1: return use_(NativeWords<std::uint8_t>(memory_));
            case 2: return use_(NativeWords<std::uint16_t>(memory_));
            case 4: return use_(NativeWords<std::uint32_t>(memory_));
            default: return use_(NativeWords<std::uint64_t>(memory_));
        }
    }
    Result operator()(const Unread&) const { return use_(UnreadWords(memory_)); }
    Result operator()(const StoredFloat& format) const { return encoded<double>(format); }
    template <class Half>
    Result operator()(const StoredHalf<Half>& format) const {
        return encoded<float>(format);
    }
    template <class Format>
    Result operator()(const Format& format) const {
        return memory_.word_bytes == 4 ? encoded<float>(format) : encoded<double>(format);
    }

   private:
    template <class Real, class Format>
    Result encoded(const Format& format) const {
        return use_(EncodedWords<Real, Format>(memory_, format, seen_));
    }

    const TensorMemory& memory_;
    SeenFilter& seen_;
    Use use_;
};

template <class Use>
auto with_words(const TensorMemory& memory, SeenFilter& seen, Use use) {
    return std::visit(WordsVisitor<Use>(memory, seen, use), memory.format);
}

/// Maps the rank of an exposed bit to its bit number in the stored word.
class ExposedBits {
   public:
    explicit ExposedBits(std::uint64_t mask) {
        for (std::uint8_t bit = 0; bit < 64; ++bit)
            if (mask >> bit & 1) bit_[count_++] = bit;
        while (count_ >> log2_ > 1) ++log2_;
        is_whole_field_ = count_ == 1u << log2_ && bit_[count_ - 1] == bit_[0] + count_ - 1;
    }

    std::uint32_t count() const { return count_; }
    std::uint8_t operator[](std::uint32_t rank) const { return bit_[rank]; }

    /// Returns the word of a position, counted within its block.
    std::uint32_t word(std::uint32_t position) const {
        return is_whole_field_ ? position >> log2_ : position / count_;
    }

    /// Splits n positions into elements and bits. The last step may write up to step - 1 entries
    /// after the first n.
    void split(const std::uint32_t* positions, std::uint32_t n, std::uint32_t first_word,
               std::uint32_t* element, std::uint8_t* bit) const {
        if (is_whole_field_) {
            for (std::uint32_t i = 0; i < n; i += step)
                split_field(positions + i, first_word, element + i, bit + i);
        } else {
            for (std::uint32_t i = 0; i < n; ++i) {
                element[i] = first_word + positions[i] / count_;
                bit[i] = bit_[positions[i] % count_];
            }
        }
    }

    static constexpr std::uint32_t step = 16;

   private:
    void split_field(const std::uint32_t* positions, std::uint32_t first_word,
                     std::uint32_t* element, std::uint8_t* bit) const {
        // Local copies: a byte that is written may alias the members, which would prevent
        // vectorization.
        const std::uint32_t log2 = log2_, ranks = count_ - 1, lowest = bit_[0];
        std::uint32_t words[step];
        std::uint8_t bits[step];
        for (std::uint32_t j = 0; j < step; ++j) {
            words[j] = first_word + (positions[j] >> log2);
            bits[j] = static_cast<std::uint8_t>(lowest + (positions[j] & ranks));
        }
        std::memcpy(element, words, sizeof words);
        std::memcpy(bit, bits, sizeof bits);
    }

    std::uint8_t bit_[64] = {};
    std::uint32_t count_ = 0;
    std::uint32_t log2_ = 0;
    bool is_whole_field_ = false;  // 2^k adjacent bits
};

/// Removes flips beyond the end of the tensor, which the last block can reach. Returns the number
/// of remaining flips.
inline std::uint32_t drop_words_beyond_end(std::uint64_t tensor_words, std::uint32_t* element,
                                           std::uint8_t* bit, std::uint32_t flips) {
    std::uint32_t left = 0;
    for (std::uint32_t i = 0; i < flips; ++i) {
        if (element[i] >= tensor_words) continue;
        element[left] = element[i];
        bit[left++] = bit[i];
    }
    return left;
}

}  // namespace proact
