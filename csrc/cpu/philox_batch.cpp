#include "philox_batch.hpp"

#include <cstring>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace proact {
namespace {

void batch_baseline(PhiloxCounter counter, PhiloxKey key, std::uint32_t* words) {
    for (std::uint32_t i = 0; i < batch_counters; ++i, ++counter.word[0], words += 4) {
        const PhiloxCounter output = philox4x32_10(counter, key);
        std::memcpy(words, output.word, sizeof output.word);
    }
}

bool scale_baseline(const std::uint32_t* words, std::uint32_t range, std::uint32_t rejected,
                    std::uint32_t* scaled) {
    std::uint32_t below = 0;
    for (std::uint32_t i = 0; i < batch_words; ++i) {
        const std::uint64_t product = std::uint64_t{words[i]} * range;
        scaled[i] = static_cast<std::uint32_t>(product >> 32);
        below |= static_cast<std::uint32_t>(product) < rejected;
    }
    return below != 0;
}

#if defined(__x86_64__)

// A 64-bit lane holds one 32-bit word of one counter. The upper half of a lane is never read:
// products use the lower halves, and the final step discards the upper ones. A round therefore
// needs no shuffles, unlike a round over packed 32-bit lanes.

[[gnu::target("avx2")]] void batch_avx2(PhiloxCounter counter, PhiloxKey key,
                                        std::uint32_t* words) {
    constexpr int parts = 2;  // of four counters each
    __m256i c0[parts], c1[parts], c2[parts], c3[parts];
    for (int part = 0; part < parts; ++part) {
        c0[part] = _mm256_add_epi64(
            _mm256_set1_epi64x(counter.word[0]),
            _mm256_setr_epi64x(4 * part, 4 * part + 1, 4 * part + 2, 4 * part + 3));
        c1[part] = _mm256_set1_epi64x(counter.word[1]);
        c2[part] = _mm256_set1_epi64x(counter.word[2]);
        c3[part] = _mm256_set1_epi64x(counter.word[3]);
    }
    const __m256i multiplier_0 = _mm256_set1_epi64x(philox_multiplier_0);
    const __m256i multiplier_1 = _mm256_set1_epi64x(philox_multiplier_1);
    for (int round = 0; round < 10; ++round, key = next_round(key)) {
        const __m256i key_0 = _mm256_set1_epi64x(key.word[0]);
        const __m256i key_1 = _mm256_set1_epi64x(key.word[1]);
        for (int part = 0; part < parts; ++part) {
            const __m256i product_0 = _mm256_mul_epu32(c0[part], multiplier_0);
            const __m256i product_1 = _mm256_mul_epu32(c2[part], multiplier_1);
            c0[part] = _mm256_xor_si256(_mm256_srli_epi64(product_1, 32),
                                        _mm256_xor_si256(c1[part], key_0));
            c1[part] = product_1;
            c2[part] = _mm256_xor_si256(_mm256_srli_epi64(product_0, 32),
                                        _mm256_xor_si256(c3[part], key_1));
            c3[part] = product_0;
        }
    }
    const __m256i lower = _mm256_set1_epi64x(0xffffffff);
    for (int part = 0; part < parts; ++part, words += 16) {
        const __m256i c01 =
            _mm256_or_si256(_mm256_and_si256(c0[part], lower), _mm256_slli_epi64(c1[part], 32));
        const __m256i c23 =
            _mm256_or_si256(_mm256_and_si256(c2[part], lower), _mm256_slli_epi64(c3[part], 32));
        const __m256i even = _mm256_unpacklo_epi64(c01, c23);
        const __m256i odd = _mm256_unpackhi_epi64(c01, c23);
        _mm256_storeu_si256(reinterpret_cast<__m256i*>(words),
                            _mm256_permute2x128_si256(even, odd, 0x20));
        _mm256_storeu_si256(reinterpret_cast<__m256i*>(words + 8),
                            _mm256_permute2x128_si256(even, odd, 0x31));
    }
}

[[gnu::target("avx2")]] bool scale_avx2(const std::uint32_t* words, std::uint32_t range,
                                        std::uint32_t rejected, std::uint32_t* scaled) {
    const __m256i factor = _mm256_set1_epi64x(range);
    const __m256i least = _mm256_set1_epi32(static_cast<int>(rejected));
    __m256i all_accepted = _mm256_set1_epi32(-1);
    for (std::uint32_t i = 0; i < batch_words; i += 8) {
        const __m256i word = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(words + i));
        const __m256i even = _mm256_mul_epu32(word, factor);
        const __m256i odd = _mm256_mul_epu32(_mm256_srli_epi64(word, 32), factor);
        const __m256i upper = _mm256_blend_epi32(_mm256_srli_epi64(even, 32), odd, 0xaa);
        const __m256i lower = _mm256_blend_epi32(even, _mm256_slli_epi64(odd, 32), 0xaa);
        _mm256_storeu_si256(reinterpret_cast<__m256i*>(scaled + i), upper);
        const __m256i accepted = _mm256_cmpeq_epi32(_mm256_max_epu32(lower, least), lower);
        all_accepted = _mm256_and_si256(all_accepted, accepted);
    }
    return _mm256_movemask_epi8(all_accepted) != -1;
}

#endif

}  // namespace

BatchFunctions batch_functions(Isa isa) {
#if defined(__x86_64__)
    if (isa != Isa::baseline) return {batch_avx2, scale_avx2};  // wider registers are not faster
#else
    static_cast<void>(isa);
#endif
    return {batch_baseline, scale_baseline};
}

}  // namespace proact
