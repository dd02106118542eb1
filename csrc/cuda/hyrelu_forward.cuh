// The forward pass of HyReLU. Each thread handles 16 adjacent bytes.
#pragma once

#include <cstddef>
#include <cstdint>

#include "hyrelu.hpp"
#include "launch.cuh"
#include "quotient.hpp"

namespace proact::cuda {

constexpr unsigned forward_threads = 256;

/// The elements that a thread loads or stores in one memory transaction.
template <class Element>
struct alignas(16) Pack {
    static constexpr unsigned size = 16 / sizeof(Element);
    Element element[size];
};

/// Iterates over the threshold indices of consecutive elements of x[sample][threshold][inner].
class ThresholdIndex {
   public:
    PROACT_ELEMENTWISE ThresholdIndex(const HyReluShape& shape, std::size_t element)
        : shape_(shape) {
        if (shape.thresholds == 1) return;
        const std::size_t run = quotient(element, shape.inner);
        inner_ = element - run * shape.inner;
        threshold_ = run - quotient(run, shape.thresholds) * shape.thresholds;
    }
    PROACT_ELEMENTWISE std::size_t threshold() const { return threshold_; }
    /// Moves to the next element and returns whether its threshold differs.
    PROACT_ELEMENTWISE bool advance() {
        if (shape_.thresholds == 1 || ++inner_ < shape_.inner) return false;
        inner_ = 0;
        if (++threshold_ == shape_.thresholds) threshold_ = 0;
        return true;
    }

   private:
    const HyReluShape& shape_;
    std::size_t inner_ = 0;
    std::size_t threshold_ = 0;
};

/// `aligned` states that x and y can be read and written in whole packs.
template <HyReluMode mode, class Element>
__global__ void __launch_bounds__(forward_threads)
    forward_kernel(HyReluShape shape, const Element* x, const RealOf<Element>* threshold,
                   Slope<RealOf<Element>> slope, Element* y, bool aligned) {
    using A = Arithmetic<Element>;
    constexpr unsigned size = Pack<Element>::size;
    const std::size_t elements = shape.elements();
    const std::size_t first =
        (static_cast<std::size_t>(blockIdx.x) * blockDim.x + threadIdx.x) * size;
    if (first >= elements) return;
    const unsigned count = elements - first < size ? static_cast<unsigned>(elements - first) : size;
    const bool whole = aligned && count == size;

    Pack<Element> pack{};
    if (whole) {
        pack = *reinterpret_cast<const Pack<Element>*>(x + first);
    } else {
        for (unsigned i = 0; i < size; ++i)
            if (i < count) pack.element[i] = x[first + i];
    }
    ThresholdIndex index(shape, first);
    auto bound = stored_threshold<mode, Element>(threshold[index.threshold()]);
    for (unsigned i = 0; i < size; ++i) {
        pack.element[i] = A::store(hyrelu<mode>(A::load(pack.element[i]), bound, slope));
        if (index.advance()) bound = stored_threshold<mode, Element>(threshold[index.threshold()]);
    }
    if (whole) {
        *reinterpret_cast<Pack<Element>*>(y + first) = pack;
    } else {
        for (unsigned i = 0; i < size; ++i)
            if (i < count) y[first + i] = pack.element[i];
    }
}

}  // namespace proact::cuda
