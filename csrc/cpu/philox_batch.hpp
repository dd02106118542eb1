// Philox for eight counters at once, and what becomes of its words.
#pragma once

#include <cstdint>

#include "../core/philox.hpp"
#include "isa.hpp"

namespace proact {

constexpr std::uint32_t batch_counters = 8;
constexpr std::uint32_t batch_words = 4 * batch_counters;

/// Writes what philox4x32_10 gives for `counter` and the seven that follow it in word[0], one after
/// the other: batch_words words.
using PhiloxBatch = void (*)(PhiloxCounter counter, PhiloxKey key, std::uint32_t* words);

/// Writes the upper halves of words[i] * range for i < batch_words; returns whether a lower half is
/// below `rejected`: see UniformBelow.
using ScaleBatch = bool (*)(const std::uint32_t* words, std::uint32_t range, std::uint32_t rejected,
                            std::uint32_t* scaled);

struct BatchFunctions {
    PhiloxBatch philox;
    ScaleBatch scale;
};

BatchFunctions batch_functions(Isa isa);

}  // namespace proact
