// Search for values outside their range, one function per instruction set.
#pragma once

#include <cstddef>
#include <cstdint>

#include "../core/half.hpp"
#include "prefetch.hpp"

namespace proact {

/// Upper bound of the distance from the returned index to the value that was found.
constexpr std::size_t range_window = 128;

/// Returns an index i such that all of x[0] to x[i - 1] lie in [floor, ceiling]. If i < size, one
/// of the next `range_window` values may lie outside. The function only reads.
template <class Element>
using FirstOutside = std::size_t (*)(const Element* x, std::size_t size,
                                     typename Arithmetic<Element>::Real floor,
                                     typename Arithmetic<Element>::Real ceiling);

template <class Element>
FirstOutside<Element> baseline_first_outside();
template <class Element>
FirstOutside<Element> avx2_first_outside();
template <class Element>
FirstOutside<Element> avx512_first_outside();

}  // namespace proact
