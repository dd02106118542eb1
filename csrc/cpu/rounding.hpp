// Rounds numbers in memory to the values of stored words.
#pragma once

#include "../core/tensor_memory.hpp"

namespace proact {

/// Replaces each number of a tensor by the value of its stored word. Throws std::invalid_argument
/// if the description is inconsistent or memory holds the stored words themselves.
void round_to_words(const TensorMemory& tensor, unsigned threads);

}  // namespace proact
