// Search for invalid codewords with tables in memory.
#include "codeword_memory.hpp"
#include "scrub_kernels.hpp"

namespace proact {
namespace {

/// The number of groups is a constant so that the compiler unrolls the loop over them.
template <class Codeword>
std::size_t first_invalid(const unsigned char* x, std::size_t codewords, const CodeTables& code,
                          const NibbleTables&) {
    constexpr std::uint32_t groups =
        (8 * sizeof(Codeword) + syndrome_index_bits - 1) / syndrome_index_bits;
    constexpr std::size_t window = 16;
    static_assert(window <= scrub_window);
    const auto syndrome = [&](std::size_t i) {
        std::uint64_t word = load_codeword<Codeword>(x + i * sizeof(Codeword));
        std::uint32_t result = 0;
        for (std::uint32_t group = 0; group < groups; ++group, word >>= syndrome_index_bits)
            result ^= code.syndromes[group * syndrome_index_values + word % syndrome_index_values];
        return result;
    };
    std::size_t i = 0;
    for (; i + window <= codewords; i += window) {
        std::uint32_t invalid = 0;
        for (std::size_t k = 0; k < window; ++k) invalid |= syndrome(i + k);
        if (invalid != 0) return i;
    }
    while (i < codewords && syndrome(i) == 0) ++i;
    return i;
}

}  // namespace

FirstInvalid baseline_first_invalid(std::uint32_t codeword_bytes, std::uint32_t) {
    FirstInvalid found = nullptr;
    with_codeword(codeword_bytes, [&](auto* type) {
        found = first_invalid<std::remove_pointer_t<decltype(type)>>;
    });
    return found;
}

}  // namespace proact
