// The look of each instruction set for values outside their range.
#pragma once

#include <cstddef>
#include <cstdint>

#include "../core/half.hpp"

namespace proact {

/// How far a look may stop before the value that it has found.
constexpr std::size_t range_window = 128;

/// i such that all of x[0] to x[i - 1] lie in [floor, ceiling] and, for i < size, one of the next
/// `range_window` may not. It reads only.
template <class Element>
using FirstOutside = std::size_t (*)(const Element* x, std::size_t size,
                                     typename Arithmetic<Element>::Real floor,
                                     typename Arithmetic<Element>::Real ceiling);

/// Asks for `bytes` of memory early: the machine's own guess is 15 % slower where memory is fast.
/// Far enough to cross its pages; what lies beyond the tensor is fetched in vain.
inline void prefetch_ahead(const void* x, std::size_t bytes) {
    constexpr std::size_t distance = 8192, line = 64;
    const auto begin = reinterpret_cast<std::uintptr_t>(x) + distance;
    for (std::size_t at = 0; at < bytes; at += line)
        __builtin_prefetch(reinterpret_cast<const void*>(begin + at));
}

template <class Element>
FirstOutside<Element> baseline_first_outside();
template <class Element>
FirstOutside<Element> avx2_first_outside();
template <class Element>
FirstOutside<Element> avx512_first_outside();

}  // namespace proact
