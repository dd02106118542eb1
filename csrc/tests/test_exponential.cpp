// Measures exponential2(x) in units in the last place, over the floats and over a dense grid of
// doubles.
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <random>

#include "check.hpp"
#include "ulp_meter.hpp"

using namespace proact;
using namespace proact::test;

namespace {

float float_of(std::uint32_t bits) {
    float value;
    std::memcpy(&value, &bits, sizeof value);
    return value;
}

/// NaN may give any number; all other floats are measured, including infinities.
void floats_of_every_size() {
    UlpMeter<float> meter;
    for (std::uint64_t bits = 0; bits < std::uint64_t{1} << 32; bits += 97) {
        const float x = float_of(static_cast<std::uint32_t>(bits));
        if (!std::isnan(x)) meter(x);
    }
    meter.report("float");
}

/// The floats with 2^-4 <= |x| < 256: most others give 0, 1 or infinity.
void floats_of_moderate_size() {
    UlpMeter<float> meter;
    for (const std::uint32_t sign : {0u, 0x80000000u})
        for (std::uint32_t bits = 0x3d800000; bits < 0x43800000; bits += 13)
            meter(float_of(sign | bits));
    meter.report("float, middling");
}

void doubles_on_a_grid() {
    UlpMeter<double> meter;
    std::mt19937_64 random(7);
    const auto fraction = [&] { return static_cast<double>(random() >> 11) * 0x1p-53; };
    for (int step = -1080 * 1024; step < 1030 * 1024; ++step) {
        meter(step / 1024.0);
        meter((step + fraction()) / 1024.0);
    }
    for (int i = 0; i < 1000000; ++i) meter(std::ldexp(2 * fraction() - 1, -(i % 64)));
    meter.report("double");
}

template <class Real>
void limits_are_exact() {
    using Limits = std::numeric_limits<Real>;
    const Real ends[] = {
        -Limits::infinity(), Limits::lowest(), -Real(1e4),        -Real{0}, Real{0},
        Real(1e4),           Limits::max(),    Limits::infinity()};
    const Real expected[] = {
        0, 0, 0, 1, 1, Limits::infinity(), Limits::infinity(), Limits::infinity()};
    Real plain[8], fma[8];
    exponentials(ends, plain, 8);
    for (int i = 0; i < 8; ++i) CHECK_EQUAL(plain[i], expected[i]);
    if (available_isas().size() == 1) return;
    exponentials_fma(ends, fma, 8);
    for (int i = 0; i < 8; ++i) CHECK_EQUAL(fma[i], expected[i]);
}

/// Integer powers are exact; in particular, 2^0 = 1 makes the gate one half at the threshold.
template <class Real>
void whole_powers() {
    using Limits = std::numeric_limits<Real>;
    for (int n = Limits::min_exponent - 1; n < Limits::max_exponent; ++n) {
        const Real x = static_cast<Real>(n);
        Real plain, fma = 0;
        exponentials(&x, &plain, 1);
        if (available_isas().size() > 1) exponentials_fma(&x, &fma, 1);
        CHECK_EQUAL(plain, std::ldexp(Real{1}, n));
        if (available_isas().size() > 1) CHECK_EQUAL(fma, plain);
    }
}

}  // namespace

int main() {
    whole_powers<float>();
    whole_powers<double>();
    limits_are_exact<float>();
    limits_are_exact<double>();
    floats_of_every_size();
    floats_of_moderate_size();
    doubles_on_a_grid();
    return summary();
}
