// HyReLU for what every machine has: 16-byte registers (SSE2 on x86-64, NEON on arm64).
#include <cstring>

#include "hyrelu_kernels.hpp"
#include "vectors.hpp"

namespace proact {

namespace baseline {
constexpr std::size_t vector_bytes = 16;
#include "hyrelu_kernels.inl"
}  // namespace baseline

template <>
const HyReluKernels<float>& baseline_kernels<float>() {
    return baseline::kernels<float>;
}
template <>
const HyReluKernels<double>& baseline_kernels<double>() {
    return baseline::kernels<double>;
}
template <>
const HyReluKernels<Float16>& baseline_kernels<Float16>() {
    return baseline::kernels<Float16>;
}
template <>
const HyReluKernels<BFloat16>& baseline_kernels<BFloat16>() {
    return baseline::kernels<BFloat16>;
}

}  // namespace proact
