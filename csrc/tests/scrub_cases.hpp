// Small codes by definition, and the result of a sweep by definition.
#pragma once

#include <cstring>
#include <memory>
#include <string>
#include <vector>

#include "../cpu/scrub_sweep.hpp"
#include "guarded_buffer.hpp"

namespace proact::test {

/// A code that is defined by the parity-check columns of its places. The check bits are the lowest
/// places of each codeword.
struct SmallCode {
    std::uint32_t bytes, check_bits;
    bool masks;
    std::vector<std::uint32_t> columns;
    std::vector<std::uint32_t> syndromes;
    std::vector<std::uint64_t> spread, flips, keeps;
    std::vector<std::uint8_t> is_detected;

    /// Extended Hamming: distinct columns of odd weight. With `check_bits` of 9 or more the
    /// syndrome takes several bytes.
    SmallCode(std::uint32_t bytes_of_codeword, std::uint32_t bits, bool masks_detected)
        : bytes(bytes_of_codeword),
          check_bits(bits),
          masks(masks_detected),
          syndromes(8 * 256),
          spread(8 * 256),
          flips(std::size_t{1} << bits),
          keeps(flips.size(), every()),
          is_detected(flips.size(), 1) {
        for (std::uint32_t place = 0; place < check_bits; ++place) columns.push_back(1u << place);
        for (std::uint32_t column = flips_size() - 1; columns.size() < 8 * bytes; --column)
            if (odd(column) && (column & (column - 1)) != 0) columns.push_back(column);
        for (std::uint32_t byte = 0; byte < 8; ++byte)
            for (std::uint32_t value = 0; value < 256; ++value)
                for (std::uint32_t bit = 0; bit < 8; ++bit) {
                    const std::uint32_t place = 8 * byte + bit;
                    if ((value >> bit & 1) == 0) continue;
                    if (place < columns.size()) syndromes[byte * 256 + value] ^= columns[place];
                    if (place < check_bits) spread[byte * 256 + value] |= std::uint64_t{1} << place;
                }
        is_detected[0] = 0;
        for (std::uint32_t place = 0; place < columns.size(); ++place) {
            flips[columns[place]] = std::uint64_t{1} << place;
            is_detected[columns[place]] = 0;
        }
        if (masks)
            for (std::size_t s = 1; s < keeps.size(); ++s)
                if (is_detected[s] != 0) keeps[s] = 0;
    }

    std::uint64_t every() const {
        return bytes == 8 ? ~std::uint64_t{0} : (std::uint64_t{1} << (8 * bytes)) - 1;
    }

    std::uint32_t syndrome(std::uint64_t word) const {
        std::uint32_t result = 0;
        for (std::uint32_t place = 0; place < columns.size(); ++place)
            if ((word >> place & 1) != 0) result ^= columns[place];
        return result;
    }

    std::uint64_t encoded(std::uint64_t word) const {
        const std::uint64_t payload = word >> check_bits << check_bits;
        return payload | syndrome(payload);
    }

    CodeDefinition definition() const {
        return {bytes,
                check_bits,
                every() >> check_bits << check_bits,
                syndromes.data(),
                spread.data(),
                flips.data(),
                keeps.data(),
                is_detected.data(),
                masks};
    }

    /// Built once, because large tables take time.
    std::shared_ptr<const ScrubCode> native() const {
        if (native_ == nullptr) native_ = std::make_shared<ScrubCode>(definition());
        return native_;
    }

   private:
    mutable std::shared_ptr<const ScrubCode> native_;

    std::uint32_t flips_size() const { return 1u << check_bits; }
    static bool odd(std::uint32_t column) {
        bool result = false;
        for (; column != 0; column &= column - 1) result = !result;
        return result;
    }
};

inline std::uint64_t codeword_at(const std::vector<unsigned char>& bytes, std::size_t at,
                                 std::uint32_t size) {
    std::uint64_t word = 0;
    std::memcpy(&word, bytes.data() + at, size);
    return word;
}

inline void put_codeword(std::vector<unsigned char>& bytes, std::size_t at, std::uint32_t size,
                         std::uint64_t word) {
    std::memcpy(bytes.data() + at, &word, size);
}

/// Random valid codewords, after `offset` bytes and before as many, which are no codewords.
inline std::vector<unsigned char> valid_memory(const SmallCode& code, std::size_t codewords,
                                               std::size_t offset) {
    std::vector<unsigned char> bytes(codewords * code.bytes + 2 * offset, 0xa5);
    std::mt19937_64 random(codewords * 8 + code.bytes);
    for (std::size_t i = 0; i < codewords; ++i)
        put_codeword(bytes, offset + i * code.bytes, code.bytes,
                     code.encoded(random() & code.every()));
    return bytes;
}

inline CodedMemory coded_memory(std::vector<unsigned char>& bytes, std::size_t codewords,
                                std::size_t offset, const SmallCode& code,
                                std::uint32_t word_bytes) {
    return {reinterpret_cast<std::uintptr_t>(bytes.data()) + offset,
            codewords,
            code.native(),
            word_bytes,
            0,
            {}};
}

inline std::vector<SmallCode> small_codes() {
    std::vector<SmallCode> codes;
    for (const bool masks : {false, true}) {
        codes.emplace_back(1u, 5u, masks);
        codes.emplace_back(2u, 6u, masks);
        codes.emplace_back(4u, 7u, masks);
        codes.emplace_back(4u, 11u, masks);
        codes.emplace_back(8u, 8u, masks);
        codes.emplace_back(8u, 13u, masks);
        codes.emplace_back(8u, 19u, masks);
    }
    return codes;
}

}  // namespace proact::test
