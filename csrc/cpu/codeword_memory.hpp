// Codewords in memory: adjacent words, of which only the words themselves are aligned.
#pragma once

#include <cstdint>
#include <cstring>
#include <type_traits>

namespace proact {

template <class Codeword>
std::uint64_t load_codeword(const unsigned char* x) {
    Codeword word;
    std::memcpy(&word, x, sizeof word);
    return word;
}

template <class Codeword>
void store_codeword(unsigned char* x, std::uint64_t packed) {
    const auto word = static_cast<Codeword>(packed);
    std::memcpy(x, &word, sizeof word);
}

/// Calls `use` with a null pointer to the unsigned integer of 1, 2, 4 or 8 bytes.
template <class Use>
void with_codeword(std::uint32_t bytes, Use use) {
    switch (bytes) {
        case 1: return use(static_cast<std::uint8_t*>(nullptr));
        case 2: return use(static_cast<std::uint16_t*>(nullptr));
        case 4: return use(static_cast<std::uint32_t*>(nullptr));
        default: return use(static_cast<std::uint64_t*>(nullptr));
    }
}

}  // namespace proact
