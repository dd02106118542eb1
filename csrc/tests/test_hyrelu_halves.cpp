// Tests HyReLU of float16 and bfloat16: computed in float, rounded when stored.
#include <cmath>
#include <cstdint>
#include <vector>

#include "../cpu/hyrelu.hpp"
#include "check.hpp"

using namespace proact;
using namespace proact::test;

namespace {

constexpr HyReluMode modes[] = {HyReluMode::soft, HyReluMode::zero, HyReluMode::saturate};
constexpr float inf = std::numeric_limits<float>::infinity();
constexpr float thresholds[] = {0.0f,
                                0.3f,
                                1.0f,
                                1.0005f,
                                6.0f,
                                65519.0f,
                                65520.0f,
                                70000.0f,
                                3e38f,
                                inf,
                                -1.0f,
                                -inf,
                                std::numeric_limits<float>::quiet_NaN(),
                                1e-7f,
                                6.1e-5f,
                                1e-40f};

template <class Half>
std::vector<Half> every_half() {
    std::vector<Half> all;
    for (std::uint32_t word = 0; word <= 0xffff; ++word)
        all.push_back({static_cast<std::uint16_t>(word)});
    return all;
}

/// Computes y with float arithmetic, element by element.
template <HyReluMode mode, class Half>
float in_float(Half x, float threshold) {
    return hyrelu<mode>(Arithmetic<Half>::load(x), stored_threshold<mode, Half>(threshold),
                        Slope<float>::of(20));
}

template <class Half>
float in_float(HyReluMode mode, Half x, float threshold) {
    switch (mode) {
        case HyReluMode::soft: return in_float<HyReluMode::soft>(x, threshold);
        case HyReluMode::zero: return in_float<HyReluMode::zero>(x, threshold);
        default: return in_float<HyReluMode::saturate>(x, threshold);
    }
}

/// The hard modes are exact. In soft mode, the last digits of the float can change a rounding.
template <class Half>
bool matches(HyReluMode mode, Half got, float want) {
    const Half rounded = Arithmetic<Half>::store(want);
    if (mode != HyReluMode::soft) return got.word == rounded.word;
    return got.word == rounded.word ||
           got.word == Arithmetic<Half>::store(want * (1 + 3e-6f)).word ||
           got.word == Arithmetic<Half>::store(want * (1 - 3e-6f)).word;
}

template <class Half>
void forward_of_every_half() {
    const std::vector<Half> x = every_half<Half>();
    for (const Isa isa : available_isas())
        for (const HyReluMode mode : modes)
            for (const float threshold : thresholds) {
                context = name(isa) + ", mode " + shown(static_cast<int>(mode)) + ", T " +
                          shown(threshold);
                std::vector<Half> y(x.size());
                hyrelu_forward(mode, {1, 1, x.size()}, x.data(), &threshold, 20, y.data(),
                               {isa, 1});
                bool right = true, finite = true;
                for (std::size_t i = 0; i < x.size(); ++i) {
                    right &= matches(mode, y[i], in_float(mode, x[i], threshold));
                    finite &= y[i].word < Half::infinity;  // no infinity, NaN or negative number
                }
                CHECK(right);
                CHECK(finite);

                std::vector<Half> in_place = x;
                hyrelu_forward(mode, {1, 1, x.size()}, in_place.data(), &threshold, 20,
                               in_place.data(), {isa, 1});
                CHECK(std::equal(y.begin(), y.end(), in_place.begin(),
                                 [](Half a, Half b) { return a.word == b.word; }));
            }
    context.clear();
}

/// One threshold per element, with lengths that cover every remainder of a vector.
template <class Half>
void per_element_thresholds() {
    const std::vector<Half> every = every_half<Half>();
    for (const Isa isa : available_isas())
        for (const HyReluMode mode : modes)
            for (std::size_t length = 1; length < 200; ++length) {
                context = name(isa) + ", length " + shown(length);
                std::vector<Half> x;
                std::vector<float> t;
                for (std::size_t i = 0; i < 2 * length; ++i) x.push_back(every[i * 197 % 65536]);
                for (std::size_t i = 0; i < length; ++i)
                    t.push_back(thresholds[i % std::size(thresholds)]);
                std::vector<Half> y(x.size() + 1, Half{0x1234});
                hyrelu_forward(mode, {2, length, 1}, x.data(), t.data(), 20, y.data(), {isa, 1});
                for (std::size_t i = 0; i < x.size(); ++i)
                    CHECK(matches(mode, y[i], in_float(mode, x[i], t[i % length])));
                CHECK_EQUAL(y.back().word, Half{0x1234}.word);
            }
    context.clear();
}

template <HyReluMode mode, class Half>
void gradients() {
    const std::vector<Half> every = every_half<Half>();
    const auto k = Slope<float>::of(20);
    for (const Isa isa : available_isas())
        for (const float threshold : {0.3f, 1.0f, 6.0f, inf, -1.0f}) {
            context =
                name(isa) + ", mode " + shown(static_cast<int>(mode)) + ", T " + shown(threshold);
            std::vector<Half> x, grad;
            double want = 0, size = 0;
            for (std::uint32_t i = 0; i < 0xffff; ++i) {
                x.push_back(every[i]);
                grad.push_back(Arithmetic<Half>::store(static_cast<float>(i % 64) / 32 - 1));
            }
            std::vector<Half> grad_x(x.size());
            float grad_threshold = -1;
            hyrelu_backward(mode, {1, 1, x.size()}, grad.data(), x.data(), &threshold, 20,
                            grad_x.data(), &grad_threshold, {isa, 1});
            for (std::size_t i = 0; i < x.size(); ++i) {
                const auto g = hyrelu_gradient<mode>(Arithmetic<Half>::load(grad[i]),
                                                     Arithmetic<Half>::load(x[i]),
                                                     stored_threshold<mode, Half>(threshold), k);
                want += static_cast<double>(g.threshold);
                size += std::fabs(static_cast<double>(g.threshold));
                const float got = Arithmetic<Half>::load(grad_x[i]);
                const float scale = std::fmax(std::fabs(g.x), std::fabs(g.x - got));
                // Half a unit in the last place of bfloat16 is 2^-9; the smallest float16 is 6e-8.
                CHECK_IN(shown(i), std::fabs(got - g.x) <= scale / 256 + 6e-8f);
            }
            CHECK(std::fabs(static_cast<double>(grad_threshold) - want) <= 1e-5 * size);
        }
    context.clear();
}

template <class Half>
void all() {
    forward_of_every_half<Half>();
    per_element_thresholds<Half>();
    gradients<HyReluMode::soft, Half>();
    gradients<HyReluMode::zero, Half>();
    gradients<HyReluMode::saturate, Half>();
}

}  // namespace

int main() {
    all<Float16>();
    all<BFloat16>();
    return summary();
}
