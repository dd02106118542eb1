// The vector loops of one instruction set, as a table.
#pragma once

#include <cstddef>

#include "hyrelu_thresholds.hpp"

namespace proact {

/// A loop over `size` neighbouring elements. With shared thresholds `threshold` and `limit` point
/// at one number, and `sum` too; else at one for each element. Backward adds to `sum`.
template <class Element>
struct HyReluKernels {
    using Real = typename Arithmetic<Element>::Real;
    using Forward = void (*)(const Element* x, const Real* threshold, const Word<Element>* limit,
                             std::size_t size, Slope<Real> slope, Element* y);
    using Backward = void (*)(const Element* grad, const Element* x, const Real* threshold,
                              const Word<Element>* limit, std::size_t size, Slope<Real> slope,
                              Element* grad_x, double* sum);

    struct OfMode {
        Forward forward;
        Backward backward;
    };
    OfMode shared[3];  // by mode
    OfMode each[3];

    const OfMode& of(HyReluMode mode, bool is_shared) const {
        return (is_shared ? shared : each)[static_cast<int>(mode)];
    }
};

template <class Element>
const HyReluKernels<Element>& baseline_kernels();
template <class Element>
const HyReluKernels<Element>& avx2_kernels();
template <class Element>
const HyReluKernels<Element>& avx512_kernels();

}  // namespace proact
