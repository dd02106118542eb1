// Table of the vector loops of one instruction set.
#pragma once

#include <cstddef>

#include "hyrelu_thresholds.hpp"

namespace proact {

/// Loops over `size` adjacent elements. In a shared loop, `threshold`, `limit` and `sum` each point
/// to one number; otherwise they point to one number per element. Backward adds to `sum`.
template <class Element>
struct HyReluKernels {
    using Real = typename Arithmetic<Element>::Real;
    using Forward = void (*)(const Element* x, const Real* threshold, const Word<Element>* limit,
                             std::size_t size, Slope<Real> slope, Element* y);
    using Backward = void (*)(const Element* grad, const Element* x, const Real* threshold,
                              const Word<Element>* limit, std::size_t size, Slope<Real> slope,
                              Element* grad_x, double* sum);

    struct ModeKernels {
        Forward forward;
        Backward backward;
    };
    ModeKernels shared[3];  // indexed by mode
    ModeKernels per_element[3];

    const ModeKernels& of(HyReluMode mode, bool is_shared) const {
        return (is_shared ? shared : per_element)[static_cast<int>(mode)];
    }
};

template <class Element>
const HyReluKernels<Element>& baseline_kernels();
template <class Element>
const HyReluKernels<Element>& avx2_kernels();
template <class Element>
const HyReluKernels<Element>& avx512_kernels();

}  // namespace proact
