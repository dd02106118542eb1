// The look of each instruction set for values outside their range.
#pragma once

#include <cstddef>

#include "../core/half.hpp"

namespace proact {

/// How far a look may stop before the value that it has found.
constexpr std::size_t range_stretch = 128;

/// i such that all of x[0] to x[i - 1] lie in [floor, ceiling] and, for i < size, one of the next
/// `range_stretch` does not. It reads only.
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
