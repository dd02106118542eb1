// HyReLU loops compiled for AVX-512.
#if defined(__x86_64__)
#define PROACT_TARGET "avx2,fma,avx512f,avx512dq,avx512vl,avx512bw"

#include <cstring>

#include "hyrelu_kernels.hpp"
#include "vectors.hpp"

namespace proact {

#if defined(__clang__)
#pragma clang attribute push(__attribute__((target(PROACT_TARGET))), apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("avx2,fma,avx512f,avx512dq,avx512vl,avx512bw")
#endif
namespace avx512 {
constexpr std::size_t vector_bytes = 64;
#include "hyrelu_kernels.inl"
}  // namespace avx512
#if defined(__clang__)
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif

template <class Element>
const HyReluKernels<Element>& avx512_kernels() {
    return avx512::kernels<Element>;
}
template const HyReluKernels<float>& avx512_kernels();
template const HyReluKernels<double>& avx512_kernels();
template const HyReluKernels<Float16>& avx512_kernels();
template const HyReluKernels<BFloat16>& avx512_kernels();

}  // namespace proact

#endif
