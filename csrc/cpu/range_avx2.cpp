// Search for values outside their range, compiled for AVX2.
#if defined(__x86_64__)
#define PROACT_TARGET "avx2,fma,f16c"

#include "range_kernels.hpp"
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
#include "range_kernels.inl"
}  // namespace avx2
#if defined(__clang__)
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif

template <class Element>
FirstOutside<Element> avx2_first_outside() {
    return avx2::first_outside<Element>;
}
template FirstOutside<float> avx2_first_outside();
template FirstOutside<double> avx2_first_outside();
template FirstOutside<Float16> avx2_first_outside();
template FirstOutside<BFloat16> avx2_first_outside();

}  // namespace proact

#endif
