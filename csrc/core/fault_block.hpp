// Decides which bits of a tensor flip, as a pure function of (seed, trial, stream, block). The
// result is the same on every machine, for any number of threads and in any order of blocks.
//
// A tensor's words are divided into blocks of 2^k words. For a block with n exposed bits, the
// number of flips is drawn from Binomial(n, ber), and then that many distinct bits are drawn
// uniformly. This is equivalent to flipping every bit independently with probability ber, but its
// cost grows with the number of flips. Flips in words beyond the end of the tensor are discarded
// after the draw; the remaining flips stay independent. The block size grows as the BER falls
// (about 16 to 32 expected flips per block). Blocks never share a word, so threads can process them
// concurrently.
#pragma once

#include <cstdint>

#include "binomial.hpp"
#include "host_device.hpp"
#include "philox.hpp"

namespace proact {

/// Increment this whenever a (seed, trial) pair selects different flips: stored campaigns record
/// it.
constexpr int sampler_version = 1;

constexpr int stream_bits = 48;

/// Identifies the flips of one tensor in one trial.
struct FaultStream {
    std::uint64_t seed;
    std::uint32_t trial;
    std::uint64_t stream;  // identifies the tensor; below 2^48
};

/// Identifies the flips of all tensors in one trial. They do not depend on the number of threads,
/// the instruction set or the device.
struct FaultPattern {
    std::uint64_t seed;
    std::uint32_t trial;
};

/// The partition of a tensor into blocks and the distribution of the number of flips per block.
struct BlockLaw {
    std::uint32_t words_log2;     // a block has 2^words_log2 words
    std::uint32_t bits_per_word;  // exposed bits per word
    bool inverted;                // ber > 1/2: the drawn bits are the ones that do not flip
    BinomialView drawn;

    PROACT_HOST_DEVICE std::uint32_t bits() const { return bits_per_word << words_log2; }
    PROACT_HOST_DEVICE std::uint64_t words() const { return std::uint64_t{1} << words_log2; }
    /// Number of blocks in a tensor of `tensor_words` words.
    PROACT_HOST_DEVICE std::uint64_t blocks(std::uint64_t tensor_words) const {
        return (tensor_words + words() - 1) >> words_log2;
    }
};

/// Returns log2 of the largest block size that has at most 32 expected draws and does not exceed
/// the tensor (rounded up to a power of two).
inline std::uint32_t block_words_log2(double draw_probability, std::uint32_t bits_per_word,
                                      std::uint64_t tensor_words) {
    constexpr double max_expected_draws = 32.0;
    constexpr std::uint32_t max_words_log2 = 24;  // positions of 64-bit words fit 32 bits
    std::uint32_t log2 = 0;
    while (log2 < max_words_log2 && (std::uint64_t{1} << log2) < tensor_words &&
           draw_probability * static_cast<double>(std::uint64_t{bits_per_word} << (log2 + 1)) <=
               max_expected_draws)
        ++log2;
    return log2;
}

/// Returns the first counter of a block's random sequence; draws count up from `first_draw`. The
/// draw number takes 16 bits and the stream 48. With 48 bits, two of a thousand tensors share a
/// stream with probability 2e-9, and no block needs 2^10 draws.
PROACT_HOST_DEVICE inline PhiloxCounter block_counter(const FaultStream& fault, std::uint32_t block,
                                                      std::uint32_t first_draw = 0) {
    return {{(static_cast<std::uint32_t>(fault.stream >> 32) << 16) + first_draw, block,
             static_cast<std::uint32_t>(fault.stream), fault.trial}};
}

PROACT_HOST_DEVICE inline PhiloxKey fault_key(const FaultStream& fault) {
    return {{static_cast<std::uint32_t>(fault.seed), static_cast<std::uint32_t>(fault.seed >> 32)}};
}

/// Unbiased uniform integers on [0, range): the upper half of word * range, rejected if the lower
/// half is below `rejected`. See D. Lemire, "Fast random integer generation in an interval", ACM
/// TOMACS 29 (2019), algorithm 5. If the range is a power of two, nothing is rejected.
struct UniformBelow {
    std::uint32_t range;
    std::uint32_t rejected;

    PROACT_HOST_DEVICE explicit UniformBelow(std::uint32_t size)
        : range(size), rejected((0u - size) % size) {}
    PROACT_HOST_DEVICE std::uint64_t product(std::uint32_t word) const {
        return std::uint64_t{word} * range;
    }
    PROACT_HOST_DEVICE bool rejects(std::uint64_t product) const {
        return static_cast<std::uint32_t>(product) < rejected;
    }
};

/// The random sequence of one block as 32-bit words; each Philox call yields four.
class BlockRandomWords {
   public:
    PROACT_HOST_DEVICE BlockRandomWords(const FaultStream& fault, std::uint32_t block,
                                        std::uint32_t first_draw = 0)
        : key_(fault_key(fault)), counter_(block_counter(fault, block, first_draw)) {}

    PROACT_HOST_DEVICE std::uint32_t next() {
        if (used_ == 4) {
            buffer_ = philox4x32_10(counter_, key_);
            ++counter_.word[0];
            used_ = 0;
        }
        // Constant indices keep the words of a GPU thread in registers.
        const std::uint32_t* const word = buffer_.word;
        const int i = used_++;
        return i == 0 ? word[0] : i == 1 ? word[1] : i == 2 ? word[2] : word[3];
    }

    PROACT_HOST_DEVICE std::uint64_t next64() {
        const std::uint64_t low = next();
        return low | (std::uint64_t{next()} << 32);
    }

    PROACT_HOST_DEVICE std::uint32_t below(UniformBelow uniform) {
        std::uint64_t product = uniform.product(next());
        while (uniform.rejects(product)) product = uniform.product(next());
        return static_cast<std::uint32_t>(product >> 32);
    }

   private:
    PhiloxKey key_;
    PhiloxCounter counter_;
    PhiloxCounter buffer_{};
    int used_ = 4;
};

/// The positions drawn for one block: distinct, in drawing order. Position p denotes exposed bit p
/// % bits_per_word of word p / bits_per_word.
struct DrawnPositions {
    std::uint32_t count = 0;
    std::uint32_t position[BinomialTable::max_count];

    PROACT_HOST_DEVICE std::uint32_t& operator[](std::uint32_t i) { return position[i]; }
    const std::uint32_t* begin() const { return position; }
    const std::uint32_t* end() const { return position + count; }
};

/// Draws into `drawn`, which has a `count` of 0, an operator [] and memory for
/// BinomialTable::max_count positions.
template <class Positions>
PROACT_HOST_DEVICE void draw_block_into(Positions& drawn, const BlockLaw& law,
                                        const FaultStream& fault, std::uint32_t block,
                                        std::uint32_t first_draw = 0) {
    BlockRandomWords words(fault, block, first_draw);
    const std::uint32_t wanted = law.drawn.count(words.next64());
    const UniformBelow uniform(law.bits());

    // Redraw a position that was drawn before. The filter proves that most positions are new; only
    // the remaining ones need a search of the list. It is one word, which a GPU keeps in registers.
    std::uint64_t filter = 0;
    while (drawn.count < wanted) {
        const std::uint32_t position = words.below(uniform);
        const std::uint64_t bit = std::uint64_t{1} << (position & 63);
        if (filter & bit) {
            std::uint32_t i = 0;
            while (i < drawn.count && drawn[i] != position) ++i;
            if (i < drawn.count) continue;
        }
        filter |= bit;
        drawn[drawn.count++] = position;
    }
}

inline DrawnPositions draw_block(const BlockLaw& law, const FaultStream& fault, std::uint32_t block,
                                 std::uint32_t first_draw = 0) {
    DrawnPositions drawn;
    draw_block_into(drawn, law, fault, block, first_draw);
    return drawn;
}

}  // namespace proact
