#include "hyrelu.hpp"

#include <vector>

// In-place calls pass the same pointer twice; element i still depends on element i alone.
#if defined(__clang__)
#define PROACT_INDEPENDENT_ITERATIONS _Pragma("clang loop vectorize(assume_safety)")
#else
#define PROACT_INDEPENDENT_ITERATIONS _Pragma("GCC ivdep")
#endif

namespace proact {

namespace baseline {
#include "hyrelu_kernels.inl"
}

#if defined(__x86_64__)

#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx2,fma"))), apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("avx2,fma")
#endif
namespace avx2 {
#include "hyrelu_kernels.inl"
}
#if defined(__clang__)
#pragma clang attribute pop
#pragma clang attribute push(                                                     \
    __attribute__((target("avx512f,avx512dq,avx512vl,avx512bw,prefer-256-bit"))), \
    apply_to = function)
#else
#pragma GCC pop_options
#pragma GCC push_options
#pragma GCC target("avx2,fma,avx512f,avx512dq,avx512vl,avx512bw")
#endif
namespace avx512 {
#include "hyrelu_kernels.inl"
}
#if defined(__clang__)
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif

#else
namespace avx2 = baseline;
namespace avx512 = baseline;
#endif

namespace {

struct Runs {
    HyReluShape shape;
    bool shared;
};

/// A run is what one loop goes over: the inner elements that share a threshold or, with inner = 1,
/// the thresholds of one sample. A single threshold makes the whole tensor one run.
Runs as_runs(const HyReluShape& shape) {
    if (shape.thresholds == 1) return {{1, 1, shape.elements()}, true};
    return {shape, shape.inner > 1};
}

/// Calls `body` with the mode, and whether a run shares its threshold, as compile-time constants.
template <class Body>
void with_constants(HyReluMode mode, bool shared, Body body) {
    const auto with_mode = [&](auto constant) {
        if (shared)
            body(constant, std::true_type{});
        else
            body(constant, std::false_type{});
    };
    switch (mode) {
        case HyReluMode::soft:
            return with_mode(std::integral_constant<HyReluMode, HyReluMode::soft>{});
        case HyReluMode::zero:
            return with_mode(std::integral_constant<HyReluMode, HyReluMode::zero>{});
        case HyReluMode::saturate:
            return with_mode(std::integral_constant<HyReluMode, HyReluMode::saturate>{});
    }
}

}  // namespace

template <class Real>
void hyrelu_forward(Isa isa, HyReluMode mode, const HyReluShape& shape, const Real* x,
                    const Real* threshold, Real slope, Real* y) {
    if (shape.elements() == 0) return;
    const Runs runs = as_runs(shape);
    with_constants(mode, runs.shared, [&](auto m, auto s) {
        constexpr HyReluMode constant_mode = decltype(m)::value;
        constexpr bool constant_shared = decltype(s)::value;
        switch (isa) {
            case Isa::avx512:
                return avx512::forward<constant_mode, constant_shared>(runs.shape, x, threshold,
                                                                       slope, y);
            case Isa::avx2:
                return avx2::forward<constant_mode, constant_shared>(runs.shape, x, threshold,
                                                                     slope, y);
            case Isa::baseline:
                return baseline::forward<constant_mode, constant_shared>(runs.shape, x, threshold,
                                                                         slope, y);
        }
    });
}

template <class Real>
void hyrelu_backward(Isa isa, HyReluMode mode, const HyReluShape& shape, const Real* grad,
                     const Real* x, const Real* threshold, Real slope, Real* grad_x,
                     Real* grad_threshold) {
    std::vector<double> sums(shape.thresholds, 0.0);
    const Runs runs = as_runs(shape);
    if (shape.elements() != 0)
        with_constants(mode, runs.shared, [&](auto m, auto s) {
            constexpr HyReluMode constant_mode = decltype(m)::value;
            constexpr bool constant_shared = decltype(s)::value;
            switch (isa) {
                case Isa::avx512:
                    return avx512::backward<constant_mode, constant_shared>(
                        runs.shape, grad, x, threshold, slope, grad_x, sums.data());
                case Isa::avx2:
                    return avx2::backward<constant_mode, constant_shared>(
                        runs.shape, grad, x, threshold, slope, grad_x, sums.data());
                case Isa::baseline:
                    return baseline::backward<constant_mode, constant_shared>(
                        runs.shape, grad, x, threshold, slope, grad_x, sums.data());
            }
        });
    for (std::size_t i = 0; i < sums.size(); ++i) grad_threshold[i] = static_cast<Real>(sums[i]);
}

template void hyrelu_forward<float>(Isa, HyReluMode, const HyReluShape&, const float*, const float*,
                                    float, float*);
template void hyrelu_forward<double>(Isa, HyReluMode, const HyReluShape&, const double*,
                                     const double*, double, double*);
template void hyrelu_backward<float>(Isa, HyReluMode, const HyReluShape&, const float*,
                                     const float*, const float*, float, float*, float*);
template void hyrelu_backward<double>(Isa, HyReluMode, const HyReluShape&, const double*,
                                      const double*, const double*, double, double*, double*);

}  // namespace proact
