// HyReLU loops compiled for AVX2.
#if defined(__x86_64__)
#define PROACT_TARGET "avx2,fma,f16c"

#include <cstring>

#include "hyrelu_kernels.hpp"
#include "vectors.hpp"

namespace proact {

#if defined(__clang__)
#pragma clang attribute push(__attribute__((target(PROACT_TARGET))), apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("avx2,fma,f16c")
#endif
namespace avx2 {
constexpr std::size_t vector_bytes = 32;
#include "hyrelu_kernels.inl"
}  // namespace avx2
#if defined(__clang__)
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif

template <class Element>
const HyReluKernels<Element>& avx2_kernels() {
    return avx2::kernels<Element>;
}
template const HyReluKernels<float>& avx2_kernels();
template const HyReluKernels<double>& avx2_kernels();
template const HyReluKernels<Float16>& avx2_kernels();
template const HyReluKernels<BFloat16>& avx2_kernels();

}  // namespace proact

#endif
