// Measures exponential2(x) in units in the last place, with and without fused multiply-add.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <limits>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#include "../core/exponential.hpp"
#include "../cpu/isa.hpp"
#include "check.hpp"

namespace proact::test {

constexpr double promised_ulps = 2.0;

template <class Real>
void exponentials(const Real* x, Real* y, std::size_t n) {
    for (std::size_t i = 0; i < n; ++i) y[i] = exponential2(x[i]);
}

#if defined(__x86_64__)
// Fused multiply-add rounds differently, so its errors are measured separately.
template <class Real>
__attribute__((target("avx2,fma"))) void exponentials_fma(const Real* x, Real* y, std::size_t n) {
    for (std::size_t i = 0; i < n; ++i) y[i] = exponential2(x[i]);
}
#else
template <class Real>
void exponentials_fma(const Real* x, Real* y, std::size_t n) {
    exponentials(x, y, n);
}
#endif

/// Measures the given numbers in batches.
template <class Real>
class UlpMeter {
   public:
    // Wide enough for its own rounding to stay below 0.001 ulp of the narrow type.
    using Wide = std::conditional_t<std::is_same_v<Real, float>, double, long double>;

    void operator()(Real x) {
        x_.push_back(x);
        if (x_.size() == 4096) measure();
    }

    void report(const char* name) {
        measure();
        for (const auto& [label, worst] : {std::pair{"plain", plain_}, std::pair{"fma", fma_}}) {
            std::printf("%s, %s: at most %.4f ulp, at x = %.17g\n", name, label,
                        static_cast<double>(worst.ulps), static_cast<double>(worst.x));
            context = std::string(name) + ", " + label + ", x = " + shown(worst.x);
            CHECK(static_cast<double>(worst.ulps) <= promised_ulps);
        }
        context.clear();
    }

   private:
    struct Worst {
        Wide ulps = 0;
        Real x = 0;
    };

    void measure() {
        plain_y_.resize(x_.size());
        fma_y_.resize(x_.size());
        exponentials(x_.data(), plain_y_.data(), x_.size());
        if (has_fma_) exponentials_fma(x_.data(), fma_y_.data(), x_.size());
        for (std::size_t i = 0; i < x_.size(); ++i) {
            // Beyond the largest number, the grid continues with its last step: the next point
            // represents infinity, as in rounding to nearest.
            const Wide want = std::min(std::exp2(static_cast<Wide>(x_[i])), infinity_);
            if (want < static_cast<Wide>(Limits::min())) {
                CHECK(is_tiny(plain_y_[i], want) && (!has_fma_ || is_tiny(fma_y_[i], want)));
                continue;
            }
            int exponent = 0;
            std::frexp(want, &exponent);
            exponent = std::min(exponent, Limits::max_exponent);
            const Wide units = std::ldexp(Wide{1}, Limits::digits - exponent);
            raise(plain_, x_[i], plain_y_[i], want, units);
            if (has_fma_) raise(fma_, x_[i], fma_y_[i], want, units);
        }
        x_.clear();
    }

    /// Below the normal range, the guarantee is an absolute error.
    static bool is_tiny(Real got, Wide want) {
        return std::fabs(static_cast<Wide>(got) - want) <= static_cast<Wide>(Limits::min());
    }

    static void raise(Worst& worst, Real x, Real got, Wide want, Wide units) {
        const Wide value = std::isinf(got) && got > 0 ? infinity_ : static_cast<Wide>(got);
        const Wide ulps = std::fabs(value - want) * units;
        // NaN counts as the largest error and stays so.
        if (!(ulps <= worst.ulps) && !std::isnan(worst.ulps)) worst = {ulps, x};
    }

    using Limits = std::numeric_limits<Real>;
    inline static const Wide infinity_ = std::ldexp(Wide{1}, Limits::max_exponent);
    const bool has_fma_ = available_isas().size() > 1;
    std::vector<Real> x_, plain_y_, fma_y_;
    Worst plain_, fma_;
};

}  // namespace proact::test
