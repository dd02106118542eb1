// Search for values outside their range, compiled for AVX-512.
#if defined(__x86_64__)
#define PROACT_TARGET "avx2,fma,avx512f,avx512dq,avx512vl,avx512bw"

#include "range_kernels.hpp"
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
#include "range_kernels.inl"
}  // namespace avx512
#if defined(__clang__)
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif

template <class Element>
FirstOutside<Element> avx512_first_outside() {
    return avx512::first_outside<Element>;
}
template FirstOutside<float> avx512_first_outside();
template FirstOutside<double> avx512_first_outside();
template FirstOutside<Float16> avx512_first_outside();
template FirstOutside<BFloat16> avx512_first_outside();

}  // namespace proact

#endif
