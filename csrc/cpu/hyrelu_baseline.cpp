// HyReLU loops for the baseline with 16-byte registers (SSE2 on x86-64, NEON on arm64).
#include <cstring>

#include "hyrelu_kernels.hpp"
#include "vectors.hpp"

namespace proact {

namespace baseline {
constexpr std::size_t vector_bytes = 16;
#include "hyrelu_kernels.inl"
}  // namespace baseline

template <class Element>
const HyReluKernels<Element>& baseline_kernels() {
    return baseline::kernels<Element>;
}
template const HyReluKernels<float>& baseline_kernels();
template const HyReluKernels<double>& baseline_kernels();
template const HyReluKernels<Float16>& baseline_kernels();
template const HyReluKernels<BFloat16>& baseline_kernels();

}  // namespace proact
