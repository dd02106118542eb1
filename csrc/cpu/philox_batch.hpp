// Philox for eight counters at once, and scaling of its words to a range.
#pragma once

#include <cstdint>

#include "../core/philox.hpp"
#include "isa.hpp"

namespace proact {

constexpr std::uint32_t batch_counters = 8;
constexpr std::uint32_t batch_words = 4 * batch_counters;

/// Writes the outputs of philox4x32_10 for `counter` and the next seven values of word[0], one
/// after the other: batch_words words in total.
using PhiloxBatch = void (*)(PhiloxCounter counter, PhiloxKey key, std::uint32_t* words);

/// Writes the upper halves of words[i] * range for i < batch_words. Returns whether any lower half
/// is below `rejected`: see UniformBelow.
using ScaleBatch = bool (*)(const std::uint32_t* words, std::uint32_t range, std::uint32_t rejected,
                            std::uint32_t* scaled);

struct BatchFunctions {
    PhiloxBatch philox;
    ScaleBatch scale;
};

BatchFunctions batch_functions(Isa isa);

}  // namespace proact
