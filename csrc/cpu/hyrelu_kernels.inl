// The vector loops of HyReLU. Each hyrelu_<isa>.cpp includes this file in its own namespace, with
// its own compilation target and `vector_bytes`.

/// Adjacent elements with either one shared threshold or one threshold each.
template <class Element, bool shared>
struct ThresholdedSpan {
    using Real = typename Arithmetic<Element>::Real;
    using Memory = VectorMemory<Element, vector_bytes>;
    using Value = typename Memory::Value;
    using L = SimdTraits<Value>;
    using Words = Vector<Word<Element>, vector_bytes>;
    static constexpr std::size_t lanes = vector_bytes / sizeof(Real);
    static constexpr std::size_t word_lanes = vector_bytes / sizeof(Element);
    /// Number of elements per branch: where all gates are 1, a chunk skips the exponential. Chunks
    /// are short because one element near its threshold sends the whole chunk down the slow path.
    static constexpr std::size_t chunk = 4 * lanes;
    static_assert(chunk % word_lanes == 0);

    ThresholdedSpan(const Real* thresholds, const Word<Element>* limits, std::size_t elements)
        : threshold(thresholds), limit(limits), size(elements) {
        if constexpr (shared) {
            // Kept in vectors: the output may alias the pointers, so the loops would reload the
            // values for every vector.
            shared_threshold = L::all(*thresholds);
            shared_limit = Words{} + *limits;
        }
    }

    PROACT_ELEMENTWISE Value threshold_at(std::size_t i) const {
        if constexpr (shared)
            return shared_threshold;
        else
            return load<Value>(threshold + i);
    }
    PROACT_ELEMENTWISE Words limit_at(std::size_t i) const {
        if constexpr (shared)
            return shared_limit;
        else
            return load<Words>(limit + i);
    }

    const Real* threshold;
    const Word<Element>* limit;
    std::size_t size;
    Value shared_threshold{};
    Words shared_limit{};
};

template <class Words>
PROACT_ELEMENTWISE Words positive(Words x) {
    return x > 0 ? x : Words{};
}

template <HyReluMode mode, class Words, class Word>
PROACT_ELEMENTWISE Words clipped(Words x, Words limit, Word infinity) {
    if constexpr (mode == HyReluMode::zero) {
        return positive(x) & ~(x > limit);
    } else {
        const Words y = x < limit ? positive(x) : limit;
        return y & (x <= infinity) & (y < infinity);  // rejects NaN, and x = inf if T = inf
    }
}

/// Copies the last elements of a span, which do not fill a vector, to padded storage and back.
template <class T, std::size_t n>
struct PaddedTail {
    T values[n] = {};
    PaddedTail() = default;
    PaddedTail(const T* from, std::size_t count) { std::memcpy(values, from, count * sizeof(T)); }
    void copy_to(T* to, std::size_t count) const { std::memcpy(to, values, count * sizeof(T)); }
};

template <HyReluMode mode, class Element, bool shared>
void forward_words(const Element* x, const ThresholdedSpan<Element, shared>& s, Element* y) {
    using S = ThresholdedSpan<Element, shared>;
    using Words = typename S::Words;
    const Word<Element> infinity = infinity_word<Element>();
    std::size_t i = 0;
    for (; i + S::word_lanes <= s.size; i += S::word_lanes)
        store(y + i, clipped<mode>(load<Words>(x + i), s.limit_at(i), infinity));
    if (i == s.size) return;
    const std::size_t rest = s.size - i;
    PaddedTail<Element, S::word_lanes> last(x + i, rest);
    PaddedTail<Word<Element>, S::word_lanes> limit(s.limit + (shared ? 0 : i), shared ? 1 : rest);
    const Words limits = shared ? s.limit_at(0) : load<Words>(limit.values);
    store(last.values, clipped<mode>(load<Words>(last.values), limits, infinity));
    last.copy_to(y + i, rest);
}

template <class Element, bool shared>
PROACT_ELEMENTWISE void forward_soft_chunk(
    const Element* x, const ThresholdedSpan<Element, shared>& s, std::size_t i,
    Slope<typename ThresholdedSpan<Element, shared>::Real> slope, Element* y) {
    using S = ThresholdedSpan<Element, shared>;
    using Words = typename S::Words;
    Words above{};
    for (std::size_t j = 0; j < S::chunk; j += S::word_lanes) {
        const Words word = load<Words>(x + i + j);
        above |= word > s.limit_at(i + j);
        store(y + i + j, positive(word));
    }
    if (!any(above)) return;
    // Read y, because x may be overwritten; elements that are not positive give 0 either way.
    for (std::size_t j = 0; j < S::chunk; j += S::lanes)
        S::Memory::write(y + i + j,
                         soft_hyrelu(S::Memory::read(y + i + j), s.threshold_at(i + j), slope));
}

template <class Element, bool shared>
void forward_soft(const Element* x, const ThresholdedSpan<Element, shared>& s,
                  Slope<typename ThresholdedSpan<Element, shared>::Real> slope, Element* y) {
    using S = ThresholdedSpan<Element, shared>;
    std::size_t i = 0;
    for (; i + S::chunk <= s.size; i += S::chunk) forward_soft_chunk(x, s, i, slope, y);
    if (i == s.size) return;
    const std::size_t rest = s.size - i, from = shared ? 0 : i, thresholds = shared ? 1 : rest;
    PaddedTail<Element, S::chunk> last(x + i, rest);
    const PaddedTail<typename S::Real, S::chunk> threshold(s.threshold + from, thresholds);
    const PaddedTail<Word<Element>, S::chunk> limit(s.limit + from, thresholds);
    const S padded{threshold.values, limit.values, S::chunk};
    forward_soft_chunk(last.values, padded, 0, slope, last.values);
    last.copy_to(y + i, rest);
}

template <HyReluMode mode, class Element, bool shared>
void forward(const Element* x, const ThresholdedSpan<Element, shared>& s,
             Slope<typename ThresholdedSpan<Element, shared>::Real> slope, Element* y) {
    if constexpr (mode == HyReluMode::soft)
        forward_soft(x, s, slope, y);
    else
        forward_words<mode>(x, s, y);
}

/// Derivatives of zero and saturate as in core/hyrelu.hpp, for vectors.
template <HyReluMode mode, class Value>
PROACT_ELEMENTWISE HyReluGradient<Value> gradient(Value grad, Value x, Value threshold,
                                                  Slope<typename SimdTraits<Value>::Real> slope) {
    using L = SimdTraits<Value>;
    if constexpr (mode == HyReluMode::soft) {
        return soft_hyrelu_gradient(grad, x, threshold, slope);
    } else {
        const Value zero = L::all(0);
        const Value finite = L::all(largest_finite<typename L::Real>);
        const Value passed = L::where((x > zero) & (x <= threshold) & (x <= finite), grad);
        if constexpr (mode == HyReluMode::zero) return {passed, zero};
        return {passed, L::where((x > threshold) & (threshold > zero), grad)};
    }
}

/// A vector converted to two vectors of double: its lower and upper half. For a vector of double,
/// the upper vector is 0.
template <class Value>
struct Doubles {
    using Half = Vector<double, vector_bytes>;
    Half lower, upper;

    PROACT_ELEMENTWISE static Doubles of(Value value) {
        if constexpr (sizeof(value[0]) == 8) {
            return {value, Half{}};
        } else {
            using Floats = Vector<float, vector_bytes / 2>;
            Floats parts[2];
            std::memcpy(parts, &value, sizeof value);
            return {__builtin_convertvector(parts[0], Half),
                    __builtin_convertvector(parts[1], Half)};
        }
    }
};

/// Computes gradients and adds those of the thresholds to `sum`, which has one entry for a shared
/// threshold and otherwise one per element.
template <HyReluMode mode, class Element, bool shared>
class BackwardLoop {
    using S = ThresholdedSpan<Element, shared>;
    using Value = typename S::Value;
    using Words = typename S::Words;
    using Half = typename Doubles<Value>::Half;

   public:
    BackwardLoop(Slope<typename S::Real> slope, double* sum) : slope_(slope), sum_(sum) {}

    void run(const Element* grad, const Element* x, const S& s, Element* grad_x) {
        std::size_t i = 0;
        for (; i + S::chunk <= s.size; i += S::chunk)
            chunk(grad + i, x + i, s, i, grad_x + i, shared ? sum_ : sum_ + i);
        if (i < s.size) {
            const std::size_t rest = s.size - i, from = shared ? 0 : i;
            const std::size_t thresholds = shared ? 1 : rest;
            const PaddedTail<Element, S::chunk> last_grad(grad + i, rest), last_x(x + i, rest);
            const PaddedTail<typename S::Real, S::chunk> threshold(s.threshold + from, thresholds);
            const PaddedTail<Word<Element>, S::chunk> limit(s.limit + from, thresholds);
            PaddedTail<Element, S::chunk> last_grad_x;
            const std::size_t sums = shared ? 0 : rest;
            PaddedTail<double, S::chunk> sum(sum_ + from, sums);
            const S padded{threshold.values, limit.values, S::chunk};
            chunk(last_grad.values, last_x.values, padded, 0, last_grad_x.values, sum.values);
            last_grad_x.copy_to(grad_x + i, rest);
            sum.copy_to(sum_ + from, sums);
        }
        if constexpr (shared) {
            double lanes[vector_bytes / 8];
            store(lanes, shared_sum_.lower + shared_sum_.upper);
            for (const double lane : lanes) *sum_ += lane;
        }
    }

   private:
    PROACT_ELEMENTWISE void chunk(const Element* grad, const Element* x, const S& s, std::size_t at,
                                  Element* grad_x, double* sum) {
        if constexpr (mode == HyReluMode::soft) {
            Words above{};
            for (std::size_t j = 0; j < S::chunk; j += S::word_lanes) {
                const Words word = load<Words>(x + j);
                above |= word > s.limit_at(at + j);
                store(grad_x + j, load<Words>(grad + j) & (word > 0));
            }
            if (!any(above)) return;
        }
        Value shared_sum{};
        for (std::size_t j = 0; j < S::chunk; j += S::lanes) {
            const HyReluGradient<Value> g = gradient<mode>(
                S::Memory::read(grad + j), S::Memory::read(x + j), s.threshold_at(at + j), slope_);
            S::Memory::write(grad_x + j, g.x);
            if constexpr (mode == HyReluMode::zero) continue;
            if constexpr (shared)
                shared_sum += g.threshold;
            else
                add(g.threshold, sum + j);
        }
        if constexpr (shared && mode != HyReluMode::zero) {
            const auto doubles = Doubles<Value>::of(shared_sum);
            shared_sum_.lower += doubles.lower;
            shared_sum_.upper += doubles.upper;
        }
    }

    PROACT_ELEMENTWISE static void add(Value value, double* sum) {
        const auto doubles = Doubles<Value>::of(value);
        store(sum, load<Half>(sum) + doubles.lower);
        if constexpr (S::lanes * 8 > vector_bytes) {
            double* upper = sum + vector_bytes / 8;
            store(upper, load<Half>(upper) + doubles.upper);
        }
    }

    Slope<typename S::Real> slope_;
    double* sum_;
    Doubles<Value> shared_sum_{};
};

template <HyReluMode mode, class Element, bool shared>
constexpr typename HyReluKernels<Element>::ModeKernels mode_kernels() {
    using S = ThresholdedSpan<Element, shared>;
    using Real = typename S::Real;
    return {
        [](const Element* x, const Real* threshold, const Word<Element>* limit, std::size_t size,
           Slope<Real> slope,
           Element* y) { forward<mode>(x, S{threshold, limit, size}, slope, y); },
        [](const Element* grad, const Element* x, const Real* threshold, const Word<Element>* limit,
           std::size_t size, Slope<Real> slope, Element* grad_x, double* sum) {
            BackwardLoop<mode, Element, shared>(slope, sum)
                .run(grad, x, S{threshold, limit, size}, grad_x);
        },
    };
}

template <class Element>
constexpr HyReluKernels<Element> kernels = {{mode_kernels<HyReluMode::soft, Element, true>(),
                                             mode_kernels<HyReluMode::zero, Element, true>(),
                                             mode_kernels<HyReluMode::saturate, Element, true>()},
                                            {mode_kernels<HyReluMode::soft, Element, false>(),
                                             mode_kernels<HyReluMode::zero, Element, false>(),
                                             mode_kernels<HyReluMode::saturate, Element, false>()}};
