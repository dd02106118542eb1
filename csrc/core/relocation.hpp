// Tensors whose memory moved after words in it were logged.
#pragma once

#include <cstdint>
#include <vector>

namespace proact {

/// Memory that was at [before, before + bytes) and begins at `now`; `now` is 0 if it no longer
/// exists, and nothing is then written.
struct Relocation {
    std::uintptr_t before;
    std::uint64_t bytes;
    std::uintptr_t now;
};

/// Where the word at `address` is now. The ranges of `moved` do not overlap.
inline std::uintptr_t relocated(std::uintptr_t address, const std::vector<Relocation>& moved) {
    for (const Relocation& each : moved)
        if (address >= each.before && address - each.before < each.bytes)
            return each.now == 0 ? 0 : each.now + (address - each.before);
    return address;
}

}  // namespace proact
