// Search for invalid codewords with table lookups in registers. scrub_avx2.cpp and scrub_avx512.cpp
// include this file in their own namespaces, with their own compilation targets, `Bytes` and
// functions on it.
//
// A register of planes holds the same byte of many codewords. The syndrome is linear, so each byte
// of it is the XOR of one table entry per half byte of the codeword.

/// Moves bytes k of all codewords into x[k], in an order that is the same for all k.
template <std::uint32_t bytes>
PROACT_ELEMENTWISE void to_planes(Bytes (&x)[bytes]) {
    if constexpr (bytes == 8)
        for (std::uint32_t k = 0; k < 4; ++k) separate_words(x[k], x[k + 4]);
    if constexpr (bytes >= 4)
        for (std::uint32_t k = 0; k < bytes; k += 4)
            for (std::uint32_t j = k; j < k + 2; ++j) separate_halves(x[j], x[j + 2]);
    if constexpr (bytes >= 2)
        for (std::uint32_t k = 0; k < bytes; k += 2) separate_bytes(x[k], x[k + 1]);
}

template <std::uint32_t codeword_bytes, std::uint32_t syndrome_bytes>
std::size_t first_invalid(const unsigned char* x, std::size_t codewords, const CodeTables& code,
                          const NibbleTables& nibbles) {
    constexpr std::size_t vector = sizeof(Bytes), group = codeword_bytes * vector;
    // At least 4 vectors per branch.
    constexpr std::size_t groups = codeword_bytes < 4 ? 4 / codeword_bytes : 1;
    constexpr std::size_t window = groups * vector;
    static_assert(window <= scrub_window);
    std::size_t i = 0;
    for (; i + window <= codewords; i += window) {
        const unsigned char* at = x + i * codeword_bytes;
        prefetch_ahead(at, groups * group);
        Bytes invalid = zero();
        for (std::size_t g = 0; g < groups; ++g) {
            Bytes planes[codeword_bytes];
            for (std::uint32_t k = 0; k < codeword_bytes; ++k)
                planes[k] = load(at + g * group + k * vector);
            to_planes(planes);
            Bytes syndrome[syndrome_bytes];
            for (Bytes& part : syndrome) part = zero();
            for (std::uint32_t k = 0; k < codeword_bytes; ++k) {
                const Bytes low = low_nibbles(planes[k]), high = high_nibbles(planes[k]);
                for (std::uint32_t part = 0; part < syndrome_bytes; ++part)
                    syndrome[part] =
                        exclusive_or(syndrome[part], looked_up(table(nibbles.low[k][part]), low),
                                     looked_up(table(nibbles.high[k][part]), high));
            }
            for (const Bytes& part : syndrome) invalid = either(invalid, part);
        }
        if (any(invalid)) return i;
    }
    for (; i < codewords; ++i) {
        std::uint64_t word = 0;
        std::memcpy(&word, x + i * codeword_bytes, codeword_bytes);
        if (code.syndrome(word) != 0) break;
    }
    return i;
}

template <std::uint32_t codeword_bytes>
FirstInvalid first_invalid_for(std::uint32_t syndrome_bytes) {
    if (syndrome_bytes == 1) return first_invalid<codeword_bytes, 1>;
    if (syndrome_bytes == 2) return first_invalid<codeword_bytes, 2>;
    return first_invalid<codeword_bytes, 3>;
}
