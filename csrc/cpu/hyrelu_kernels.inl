// The vector loops of HyReLU. hyrelu.cpp includes this file once for each instruction set, each
// time inside another namespace and under another target.

/// Elements that share a decision: far enough below the threshold the gate is exactly 1, and the
/// exponential need not be computed.
constexpr std::size_t chunk = 128;

/// exp(-this) is below half a unit in the last place of 1.
template <class Real>
constexpr Real closed_exponent = sizeof(Real) == 4 ? Real{17} : Real{37};

/// One threshold for a whole run, or one for each element.
template <bool shared, class Real>
struct Thresholds {
    const Real* threshold;
    Thresholds from(std::size_t i) const { return {shared ? threshold : threshold + i}; }
    Real operator[](std::size_t i) const { return threshold[shared ? 0 : i]; }
};

/// No x above the point where soft begins to differ from ReLU. NaN counts as above.
template <bool shared, class Real>
bool all_pass(const Real* x, Thresholds<shared, Real> threshold, Real slope, std::size_t n) {
    const Real margin = closed_exponent<Real> / slope;
    std::size_t above = 0;
    for (std::size_t i = 0; i < n; ++i) {
        const Real t = threshold[i];
        // The difference, not x <= t - margin: a large t would swallow the margin.
        above += !((t - x[i] >= margin) & (t >= 0) & (x[i] <= largest_finite<Real>));
    }
    return above == 0;
}

template <HyReluMode mode, bool shared, class Real>
void forward_run(const Real* x, Thresholds<shared, Real> threshold, Real slope, Real* y,
                 std::size_t n) {
    PROACT_INDEPENDENT_ITERATIONS
    for (std::size_t i = 0; i < n; ++i) y[i] = hyrelu<mode>(x[i], threshold[i], slope);
}

template <HyReluMode mode, bool shared, class Real>
void forward(const HyReluShape& shape, const Real* x, const Real* threshold, Real slope, Real* y) {
    const std::size_t runs = shared ? shape.samples * shape.thresholds : shape.samples;
    const std::size_t length = shared ? shape.inner : shape.thresholds;
    for (std::size_t run = 0; run < runs; ++run, x += length, y += length) {
        const Thresholds<shared, Real> thresholds = {threshold +
                                                     (shared ? run % shape.thresholds : 0)};
        if constexpr (mode != HyReluMode::soft) {
            forward_run<mode>(x, thresholds, slope, y, length);
            continue;
        }
        for (std::size_t i = 0; i < length; i += chunk) {
            const std::size_t n = length - i < chunk ? length - i : chunk;
            const auto here = thresholds.from(i);
            if (all_pass(x + i, here, slope, n))
                for (std::size_t j = 0; j < n; ++j) y[i + j] = x[i + j] > 0 ? x[i + j] : Real{0};
            else
                forward_run<mode>(x + i, here, slope, y + i, n);
        }
    }
}

/// Adds the threshold's gradient to sum[0] (shared) or sum[i]. A shared sum runs in lanes of fixed
/// number, so that it is the same for every vector width.
template <HyReluMode mode, bool shared, class Real>
void backward_run(const Real* grad, const Real* x, Thresholds<shared, Real> threshold, Real slope,
                  Real* grad_x, double* sum, std::size_t n) {
    constexpr std::size_t lanes = 16;
    Real lane_sum[lanes] = {};
    std::size_t i = 0;
    for (; i + lanes <= n; i += lanes) {
        Real contribution[lanes];
        for (std::size_t lane = 0; lane < lanes; ++lane) {
            const auto g =
                hyrelu_gradient<mode>(grad[i + lane], x[i + lane], threshold[i + lane], slope);
            grad_x[i + lane] = g.x;
            contribution[lane] = g.threshold;
        }
        for (std::size_t lane = 0; lane < lanes; ++lane) {
            if constexpr (shared)
                lane_sum[lane] += contribution[lane];
            else
                sum[i + lane] += static_cast<double>(contribution[lane]);
        }
    }
    for (; i < n; ++i) {
        const auto g = hyrelu_gradient<mode>(grad[i], x[i], threshold[i], slope);
        grad_x[i] = g.x;
        sum[shared ? 0 : i] += static_cast<double>(g.threshold);
    }
    if constexpr (shared)
        for (const Real partial : lane_sum) sum[0] += static_cast<double>(partial);
}

template <HyReluMode mode, bool shared, class Real>
void backward(const HyReluShape& shape, const Real* grad, const Real* x, const Real* threshold,
              Real slope, Real* grad_x, double* sums) {
    const std::size_t runs = shared ? shape.samples * shape.thresholds : shape.samples;
    const std::size_t length = shared ? shape.inner : shape.thresholds;
    for (std::size_t run = 0; run < runs; ++run, grad += length, x += length, grad_x += length) {
        const std::size_t first = shared ? run % shape.thresholds : 0;
        const Thresholds<shared, Real> thresholds = {threshold + first};
        for (std::size_t i = 0; i < length; i += chunk) {
            const std::size_t n = length - i < chunk ? length - i : chunk;
            const auto here = thresholds.from(i);
            if (mode == HyReluMode::soft && all_pass(x + i, here, slope, n))
                for (std::size_t j = 0; j < n; ++j)
                    grad_x[i + j] = x[i + j] > 0 ? grad[i + j] : Real{0};
            else
                backward_run<mode>(grad + i, x + i, here, slope, grad_x + i,
                                   sums + first + (shared ? 0 : i), n);
        }
    }
}
