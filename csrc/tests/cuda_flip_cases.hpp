// A reference implementation of the flip kernels that uses only csrc/core/fault_block.hpp, and
// memory for the kernels to work in.
#pragma once

#include <cstdint>
#include <cstring>
#include <map>
#include <memory>
#include <random>
#include <string>
#include <type_traits>
#include <variant>
#include <vector>

#include "../core/tensor_memory.hpp"
#include "../cuda/device_plan.hpp"
#include "check.hpp"

namespace proact::test {

struct ExpectedFlip {
    std::uint64_t element;
    std::uint32_t bit;
    std::uint64_t before;
};

/// The expected words after the flips, and the flips of each block in order.
struct Expected {
    std::vector<std::uint64_t> words;
    std::vector<std::vector<ExpectedFlip>> blocks;
};

/// One word of a tensor. Encoded formats keep the stored word, because a float can lose digits of
/// it.
class FlippedWord {
   public:
    FlippedWord(const TensorMemory& memory, std::uint64_t element, std::uint64_t word)
        : memory_(memory), element_(static_cast<std::uint32_t>(element)), word_(word) {
        if (!is_stored_in_memory())
            stored_ = converted([&](const auto& format, auto real) -> std::uint64_t {
                return format.encode(real);
            });
    }
    std::uint64_t value() const { return word_; }
    void flip(std::uint32_t bit) {
        if (is_stored_in_memory()) {
            word_ ^= std::uint64_t{1} << bit;
            return;
        }
        stored_ ^= std::uint64_t{1} << bit;
        word_ = converted([&](const auto& format, auto real) -> std::uint64_t {
            using Real = decltype(real);
            return bits_of(format.template decode<Real>(static_cast<std::uint32_t>(stored_)));
        });
    }

   private:
    bool is_stored_in_memory() const { return memory_.is_stored_as<MemoryWords>(); }

    /// Calls `use` with the format of the element and its memory word as a float or double.
    template <class Use>
    std::uint64_t converted(Use use) const {
        return std::visit(
            [&](const auto& format) -> std::uint64_t {
                using Format = std::decay_t<decltype(format)>;
                if constexpr (std::is_same_v<Format, MemoryWords> ||
                              std::is_same_v<Format, Unread>) {
                    return 0;
                } else if constexpr (std::is_same_v<Format, StoredFloat>) {
                    return use(format, as<double>(word_));
                } else if constexpr (std::is_same_v<Format, StoredHalf<Float16>> ||
                                     std::is_same_v<Format, StoredHalf<BFloat16>>) {
                    return use(format, as<float>(word_));
                } else {
                    return memory_.word_bytes == 4
                               ? use(format_at(format, element_), as<float>(word_))
                               : use(format_at(format, element_), as<double>(word_));
                }
            },
            memory_.format);
    }
    template <class Real>
    static Real as(std::uint64_t word) {
        Real real;  // little-endian on every supported machine
        std::memcpy(&real, &word, sizeof real);
        return real;
    }
    template <class Real>
    static std::uint64_t bits_of(Real real) {
        std::uint64_t word = 0;
        std::memcpy(&word, &real, sizeof real);
        return word;
    }
    const TensorMemory& memory_;
    std::uint32_t element_;
    std::uint64_t word_;
    std::uint64_t stored_ = 0;
};

inline std::vector<std::uint32_t> flipped_positions(const BlockLaw& law, const FaultStream& fault,
                                                    std::uint32_t block) {
    const DrawnPositions drawn = draw_block(law, fault, block);
    if (!law.inverted) return {drawn.begin(), drawn.end()};
    std::vector<bool> stays(law.bits());
    for (const std::uint32_t position : drawn) stays[position] = true;
    std::vector<std::uint32_t> positions;
    for (std::uint32_t position = 0; position < law.bits(); ++position)
        if (!stays[position]) positions.push_back(position);
    return positions;
}

inline Expected expected_flips(const TensorMemory& memory, const BlockLaw& law,
                               const FaultStream& fault, std::vector<std::uint64_t> words) {
    std::vector<std::uint32_t> exposed;
    for (std::uint32_t bit = 0; bit < 64; ++bit)
        if ((memory.mask >> bit & 1) != 0) exposed.push_back(bit);

    Expected expected;
    for (std::uint64_t first = 0; first < words.size(); first += law.words()) {
        std::map<std::uint64_t, FlippedWord> touched;
        expected.blocks.emplace_back();
        const auto block = static_cast<std::uint32_t>(first >> law.words_log2);
        for (const std::uint32_t position : flipped_positions(law, fault, block)) {
            const std::uint64_t element = first + position / exposed.size();
            const std::uint32_t bit = exposed[position % exposed.size()];
            if (element >= words.size()) continue;
            FlippedWord& word =
                touched.try_emplace(element, memory, element, words[element]).first->second;
            expected.blocks.back().push_back({element, bit, word.value()});
            word.flip(bit);
        }
        for (const auto& [element, word] : touched) words[element] = word.value();
    }
    expected.words = std::move(words);
    return expected;
}

/// Memory with guard bytes on both sides that must not change.
class GuardedBytes {
   public:
    explicit GuardedBytes(std::size_t size)
        : size_(size), all_(std::make_unique<std::uint8_t[]>(size + 2 * guard)) {
        std::memset(all_.get(), 0xa5, size + 2 * guard);
    }
    std::uint8_t* data() { return all_.get() + guard; }
    std::uintptr_t address() { return reinterpret_cast<std::uintptr_t>(data()); }
    bool guards_are_whole() const {
        for (std::size_t i = 0; i < guard; ++i)
            if (all_[i] != 0xa5 || all_[guard + size_ + i] != 0xa5) return false;
        return true;
    }

    template <class Value>
    Value at(std::size_t offset) {
        Value value;
        std::memcpy(&value, data() + offset, sizeof value);
        return value;
    }
    std::uint64_t word(std::size_t index, std::uint32_t bytes) {
        std::uint64_t word = 0;
        std::memcpy(&word, data() + index * bytes, bytes);
        return word;
    }
    void set_word(std::size_t index, std::uint32_t bytes, std::uint64_t word) {
        std::memcpy(data() + index * bytes, &word, bytes);
    }

   private:
    static constexpr std::size_t guard = 64;
    std::size_t size_;
    std::unique_ptr<std::uint8_t[]> all_;
};

/// A tensor, its memory and the initial contents.
struct Tensor {
    Tensor(std::uint32_t word_bytes, std::uint64_t words, std::uint64_t mask,
           NumberFormat format = MemoryWords{})
        : bytes(words * word_bytes),
          memory{bytes.address(), words, word_bytes, 0xabcdef012345u, mask, format} {
        std::mt19937_64 random(words * 8 + word_bytes);
        std::uniform_real_distribution<double> value(-20000, 20000);
        for (std::uint64_t i = 0; i < words; ++i) {
            std::uint64_t word = random();  // includes NaN and infinities
            if (!memory.is_stored_as<MemoryWords>() && i % 7 != 0) {
                const double real = i % 3 != 0 ? value(random) : value(random) / 1e4;
                const auto single = static_cast<float>(real);
                if (word_bytes == 4)
                    std::memcpy(&word, &single, sizeof single);
                else
                    std::memcpy(&word, &real, sizeof real);
            }
            bytes.set_word(i, word_bytes, word);
        }
        clean = now();
    }

    std::vector<std::uint64_t> now() {
        std::vector<std::uint64_t> words;
        for (std::uint64_t i = 0; i < memory.words; ++i)
            words.push_back(bytes.word(i, memory.word_bytes));
        return words;
    }

    GuardedBytes bytes;
    TensorMemory memory;
    std::vector<std::uint64_t> clean;
};

}  // namespace proact::test
