// Philox 4x32-10, a counter-based generator. A key and a counter give 128 random bits. There is no
// state, so any draw of any trial can be recomputed alone, in any order, on any device.
//
// J. K. Salmon, M. A. Moraes, R. O. Dror, D. E. Shaw, "Parallel random numbers: as easy as 1, 2,
// 3", SC'11, section 3.3. The published known answers are in tests/data/philox4x32_10.txt.
#pragma once

#include <cstdint>

#include "host_device.hpp"

namespace proact {

struct PhiloxCounter {
    std::uint32_t word[4];
};

struct PhiloxKey {
    std::uint32_t word[2];
};

constexpr std::uint32_t philox_multiplier_0 = 0xD2511F53u;
constexpr std::uint32_t philox_multiplier_1 = 0xCD9E8D57u;

/// The round keys follow Weyl sequences.
PROACT_HOST_DEVICE constexpr PhiloxKey next_round(PhiloxKey key) {
    return {{key.word[0] + 0x9E3779B9u,    // golden ratio
             key.word[1] + 0xBB67AE85u}};  // sqrt(3) - 1
}

PROACT_HOST_DEVICE constexpr PhiloxCounter philox4x32_10(PhiloxCounter counter, PhiloxKey key) {
    for (int round = 0; round < 10; ++round, key = next_round(key)) {
        const std::uint64_t product_0 = std::uint64_t{philox_multiplier_0} * counter.word[0];
        const std::uint64_t product_1 = std::uint64_t{philox_multiplier_1} * counter.word[2];
        counter = {{
            static_cast<std::uint32_t>(product_1 >> 32) ^ counter.word[1] ^ key.word[0],
            static_cast<std::uint32_t>(product_1),
            static_cast<std::uint32_t>(product_0 >> 32) ^ counter.word[3] ^ key.word[1],
            static_cast<std::uint32_t>(product_0),
        }};
    }
    return counter;
}

}  // namespace proact
