// Tensor memory with guard words on both sides, and helpers that read a flip log.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <initializer_list>
#include <random>
#include <set>
#include <utility>
#include <vector>

#include "../cpu/flips.hpp"
#include "check.hpp"

namespace proact::test {

constexpr std::uint64_t seed = 0xfeedfacecafebeefu;

/// Bitwise equality: NaN equals itself, and 0.0 differs from -0.0.
template <class Word>
bool same_bytes(const std::vector<Word>& a, const std::vector<Word>& b) {
    return a.size() == b.size() && std::memcmp(a.data(), b.data(), a.size() * sizeof(Word)) == 0;
}

/// `all` includes the guards, so a comparison of the whole buffer covers them.
template <class Word>
struct GuardedBuffer {
    static constexpr std::size_t guard = 8;

    explicit GuardedBuffer(std::size_t words) : size(words), all(words + 2 * guard) {
        std::mt19937_64 random(words * 8 + sizeof(Word));
        for (Word& word : all) {
            const std::uint64_t bits = random();
            std::memcpy(&word, &bits, sizeof word);
        }
    }

    Word* data() { return all.data() + guard; }

    TensorMemory memory(std::uint64_t stream, std::uint64_t mask,
                        NumberFormat format = MemoryWords{}) {
        return {reinterpret_cast<std::uintptr_t>(data()), size, sizeof(Word), stream, mask, format};
    }

    bool guards_equal(const std::vector<Word>& other) const {
        return std::memcmp(all.data(), other.data(), guard * sizeof(Word)) == 0 &&
               std::memcmp(all.data() + guard + size, other.data() + guard + size,
                           guard * sizeof(Word)) == 0;
    }

    std::size_t size;
    std::vector<Word> all;
};

inline FaultPlan plan_of(std::initializer_list<TensorMemory> tensors) {
    FaultPlan plan;
    for (const TensorMemory& tensor : tensors) plan.add(tensor);
    return plan;
}

using ElementAndBit = std::pair<std::uint64_t, std::uint32_t>;

/// Returns the flips of the tensor with plan index `wanted`.
inline std::vector<Flip> flips_of(const FlipLog& log, std::size_t wanted) {
    std::vector<Flip> flips;
    log.for_each([&](std::size_t plan_index, const Flip& flip) {
        if (plan_index == wanted) flips.push_back(flip);
    });
    return flips;
}

inline std::vector<Flip> all_flips(const FlipLog& log) {
    std::vector<Flip> flips;
    log.for_each([&](std::size_t, const Flip& flip) { flips.push_back(flip); });
    CHECK_EQUAL(flips.size(), log.size());
    return flips;
}

inline std::vector<ElementAndBit> places(const std::vector<Flip>& flips) {
    std::vector<ElementAndBit> all;
    for (const Flip& flip : flips) all.emplace_back(flip.element, flip.bit);
    return all;
}

inline bool distinct_and_exposed(const std::vector<ElementAndBit>& places, std::uint64_t words,
                                 std::uint64_t mask) {
    const std::set<ElementAndBit> once(places.begin(), places.end());
    return once.size() == places.size() &&
           std::all_of(places.begin(), places.end(), [&](const ElementAndBit& place) {
               return place.first < words && (mask >> place.second & 1) != 0;
           });
}

}  // namespace proact::test
