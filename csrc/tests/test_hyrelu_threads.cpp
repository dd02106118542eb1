// Tests that HyReLU gives the same bits for any number of threads, including the threshold
// gradients.
#include <cstring>
#include <random>
#include <vector>

#include "hyrelu_cases.hpp"

using namespace proact;
using namespace proact::test;

namespace {

template <class Element>
struct Results {
    std::vector<Element> y, grad_x;
    std::vector<typename Arithmetic<Element>::Real> grad_threshold;

    bool operator==(const Results& other) const {
        return same(y, other.y) && same(grad_x, other.grad_x) &&
               same(grad_threshold, other.grad_threshold);
    }
    template <class T>
    static bool same(const std::vector<T>& a, const std::vector<T>& b) {
        return std::memcmp(a.data(), b.data(), a.size() * sizeof(T)) == 0;
    }
};

template <class Element>
void threads_change_nothing(HyReluMode mode, const HyReluShape& shape) {
    using Real = typename Arithmetic<Element>::Real;
    std::mt19937 random(7);
    std::normal_distribution<float> normal;
    std::vector<Element> x, grad;
    for (std::size_t i = 0; i < shape.elements(); ++i) {
        x.push_back(Arithmetic<Element>::store(static_cast<Real>(normal(random))));
        grad.push_back(Arithmetic<Element>::store(static_cast<Real>(normal(random))));
    }
    std::vector<Real> threshold;
    for (std::size_t t = 0; t < shape.thresholds; ++t)
        threshold.push_back(static_cast<Real>(0.5f + std::fabs(normal(random))));

    for (const Isa isa : available_isas()) {
        const auto run = [&](unsigned threads) {
            Results<Element> results{x, x, threshold};
            hyrelu_forward(mode, shape, x.data(), threshold.data(), 20, results.y.data(),
                           {isa, threads});
            hyrelu_backward(mode, shape, grad.data(), x.data(), threshold.data(), 20,
                            results.grad_x.data(), results.grad_threshold.data(), {isa, threads});
            return results;
        };
        const Results<Element> alone = run(1);
        CHECK(shape.elements() >= std::size_t{1} << 17);  // smaller tensors use one thread
        for (const unsigned threads : {2u, 3u, 8u})
            CHECK_IN(name(isa) + ", threads " + shown(threads) + ", shape " + shown(shape.samples) +
                         " x " + shown(shape.thresholds) + " x " + shown(shape.inner),
                     run(threads) == alone);
    }
}

template <class Element>
void all() {
    // Scalar, per-channel, per-neuron and wide per-neuron thresholds, channels-last, and few
    // neighbours per threshold.
    for (const HyReluShape& shape :
         {HyReluShape{1, 1, 200003}, HyReluShape{5, 7, 6001}, HyReluShape{600, 301, 1},
          HyReluShape{19, 9001, 1}, HyReluShape{40000, 5, 1}, HyReluShape{170, 130, 9},
          HyReluShape{3, 50000, 1}})
        for (const HyReluMode mode : modes) threads_change_nothing<Element>(mode, shape);
}

}  // namespace

int main() {
    all<float>();
    all<double>();
    all<BFloat16>();
    return summary();
}
