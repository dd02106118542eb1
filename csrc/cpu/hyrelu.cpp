#include "hyrelu.hpp"

#include <algorithm>
#include <vector>

#include "hyrelu_kernels.hpp"
#include "threads.hpp"

namespace proact {
namespace {

template <class Element>
using RealOf = typename Arithmetic<Element>::Real;

template <class Element>
const HyReluKernels<Element>& kernels_of(Isa isa) {
#if defined(__x86_64__)
    if (isa == Isa::avx512) return avx512_kernels<Element>();
    if (isa == Isa::avx2) return avx2_kernels<Element>();
#else
    static_cast<void>(isa);
#endif
    return baseline_kernels<Element>();
}

std::size_t ceil_divide(std::size_t a, std::size_t b) { return (a + b - 1) / b; }

/// With fewer elements, waking a sleeping thread costs more than it saves.
constexpr std::size_t min_parallel_elements = std::size_t{1} << 17;

unsigned useful_threads(const HyReluShape& shape, unsigned threads) {
    return shape.elements() < min_parallel_elements ? 1 : threads;
}

/// True if enough neighbours share a threshold to run one loop per threshold.
bool has_long_runs(const HyReluShape& shape) {
    constexpr std::size_t shortest = 64;
    return shape.thresholds == 1 || shape.inner >= shortest;
}

/// Runs of elements that share a threshold, divided into pieces. Each piece is a task. The partial
/// sums and their order depend on the shape only.
class Runs {
   public:
    explicit Runs(const HyReluShape& shape)
        : thresholds_(shape.thresholds),
          runs_(thresholds_ == 1 ? 1 : shape.samples * thresholds_),
          length_(thresholds_ == 1 ? shape.elements() : shape.inner),
          pieces_(ceil_divide(length_, max_piece)) {}

    struct Piece {
        std::size_t threshold, begin, size;
    };
    std::size_t tasks() const { return runs_ * pieces_; }
    Piece piece(std::size_t task) const {
        const std::size_t run = task / pieces_, offset = task % pieces_ * max_piece;
        return {run % thresholds_, run * length_ + offset, std::min(max_piece, length_ - offset)};
    }

   private:
    static constexpr std::size_t max_piece = std::size_t{1} << 14;
    std::size_t thresholds_, runs_, length_, pieces_;
};

/// The elements as a matrix in which each column has one threshold. In narrow matrices, several
/// samples form one row, so that loops along a row are long. A task is a block of columns, small
/// enough for the L1 cache, in a slab of rows.
class Matrix {
   public:
    explicit Matrix(const HyReluShape& shape)
        : shape_(shape),
          elements_(shape.elements()),
          columns_(
              shape.thresholds * shape.inner *
              std::min(shape.samples, ceil_divide(min_columns, shape.thresholds * shape.inner))),
          rows_(ceil_divide(elements_, columns_)),
          blocks_(ceil_divide(columns_, max_block_columns)),
          // If there are several column blocks, they suffice to keep all threads busy.
          slab_rows_(blocks_ > 1 ? rows_ : std::max<std::size_t>(1, slab_elements / columns_)),
          slabs_(ceil_divide(rows_, slab_rows_)) {}

    static constexpr std::size_t max_block_columns = 2048;

    std::size_t columns() const { return columns_; }
    std::size_t slabs() const { return slabs_; }
    std::size_t tasks() const { return slabs_ * blocks_; }

    struct Block {
        std::size_t slab, first_column, columns;
    };
    Block block(std::size_t task) const {
        const std::size_t first = task % blocks_ * max_block_columns;
        return {task / blocks_, first, std::min(max_block_columns, columns_ - first)};
    }

    /// Calls visit(index of the first element, number of elements) for each row of a block.
    template <class Visit>
    void for_each_row(const Block& block, Visit visit) const {
        const std::size_t end = std::min(rows_, (block.slab + 1) * slab_rows_);
        for (std::size_t row = block.slab * slab_rows_; row < end; ++row) {
            const std::size_t first = row * columns_ + block.first_column;
            if (first < elements_) visit(first, std::min(block.columns, elements_ - first));
        }
    }

    /// Calls visit(column within the block, threshold index) for each column.
    template <class Visit>
    void for_each_threshold(const Block& block, Visit visit) const {
        std::size_t threshold = block.first_column / shape_.inner % shape_.thresholds;
        std::size_t left = shape_.inner - block.first_column % shape_.inner;
        for (std::size_t column = 0; column < block.columns; ++column) {
            visit(column, threshold);
            if (--left != 0) continue;
            left = shape_.inner;
            if (++threshold == shape_.thresholds) threshold = 0;
        }
    }

    /// Whether column i has threshold i for every i.
    bool columns_are_thresholds() const { return columns_ == shape_.thresholds; }

   private:
    static constexpr std::size_t min_columns = 256;
    static constexpr std::size_t slab_elements = std::size_t{1} << 17;
    HyReluShape shape_;
    std::size_t elements_, columns_, rows_, blocks_, slab_rows_, slabs_;
};

/// The thresholds of a block of columns.
template <class Element>
struct BlockThresholds {
    using Prepared = PreparedThreshold<Element>;

    BlockThresholds(const Matrix& matrix, const Matrix::Block& block, HyReluMode mode,
                    const RealOf<Element>* threshold, Slope<RealOf<Element>> slope) {
        switch (mode) {
            case HyReluMode::soft:
                prepare<HyReluMode::soft>(matrix, block, threshold, slope);
                break;
            case HyReluMode::zero:
                prepare<HyReluMode::zero>(matrix, block, threshold, slope);
                break;
            case HyReluMode::saturate:
                prepare<HyReluMode::saturate>(matrix, block, threshold, slope);
                break;
        }
    }

    RealOf<Element> value[Matrix::max_block_columns];
    Word<Element> limit[Matrix::max_block_columns];

   private:
    template <HyReluMode mode>
    void prepare(const Matrix& matrix, const Matrix::Block& block, const RealOf<Element>* threshold,
                 Slope<RealOf<Element>> slope) {
        if (matrix.columns_are_thresholds()) {  // unlike the general case, this loop vectorizes
            for (std::size_t i = 0; i < block.columns; ++i)
                set(i, Prepared::template of<mode>(threshold[block.first_column + i], slope));
            return;
        }
        matrix.for_each_threshold(block, [&](std::size_t column, std::size_t t) {
            set(column, Prepared::template of<mode>(threshold[t], slope));
        });
    }

    void set(std::size_t column, const Prepared& prepared) {
        value[column] = prepared.value;
        limit[column] = prepared.limit;
    }
};

template <class Element>
std::vector<PreparedThreshold<Element>> prepared(HyReluMode mode, const HyReluShape& shape,
                                                 const RealOf<Element>* threshold,
                                                 Slope<RealOf<Element>> slope) {
    std::vector<PreparedThreshold<Element>> all(shape.thresholds);
    for (std::size_t t = 0; t < shape.thresholds; ++t)
        all[t] = PreparedThreshold<Element>::of(mode, threshold[t], slope);
    return all;
}

}  // namespace

template <class Element>
void hyrelu_forward(HyReluMode mode, const HyReluShape& shape, const Element* x,
                    const RealOf<Element>* threshold, double slope, Element* y,
                    Execution execution) {
    if (shape.elements() == 0) return;
    const auto k = Slope<RealOf<Element>>::of(slope);
    const bool shared = has_long_runs(shape);
    const auto forward = kernels_of<Element>(execution.isa).of(mode, shared).forward;
    const unsigned threads = useful_threads(shape, execution.threads);
    if (shared) {
        const Runs runs(shape);
        const auto thresholds = prepared<Element>(mode, shape, threshold, k);
        return parallel_for(threads, runs.tasks(), [&](std::size_t task) {
            const Runs::Piece piece = runs.piece(task);
            const PreparedThreshold<Element>& t = thresholds[piece.threshold];
            forward(x + piece.begin, &t.value, &t.limit, piece.size, k, y + piece.begin);
        });
    }
    const Matrix matrix(shape);
    parallel_for(threads, matrix.tasks(), [&](std::size_t task) {
        const Matrix::Block block = matrix.block(task);
        const BlockThresholds<Element> t(matrix, block, mode, threshold, k);
        matrix.for_each_row(block, [&](std::size_t first, std::size_t size) {
            forward(x + first, t.value, t.limit, size, k, y + first);
        });
    });
}

template <class Element>
void hyrelu_backward(HyReluMode mode, const HyReluShape& shape, const Element* grad,
                     const Element* x, const RealOf<Element>* threshold, double slope,
                     Element* grad_x, RealOf<Element>* grad_threshold, Execution execution) {
    std::fill_n(grad_threshold, shape.thresholds, RealOf<Element>{0});
    if (shape.elements() == 0) return;
    const auto k = Slope<RealOf<Element>>::of(slope);
    const bool shared = has_long_runs(shape);
    const auto backward = kernels_of<Element>(execution.isa).of(mode, shared).backward;
    const unsigned threads = useful_threads(shape, execution.threads);
    const auto write_totals = [&](const std::vector<double>& totals) {
        for (std::size_t t = 0; t < totals.size(); ++t)
            grad_threshold[t] = static_cast<RealOf<Element>>(totals[t]);
    };
    if (shared) {
        const Runs runs(shape);
        const auto thresholds = prepared<Element>(mode, shape, threshold, k);
        std::vector<double> sums(runs.tasks(), 0.0), totals(shape.thresholds, 0.0);
        parallel_for(threads, runs.tasks(), [&](std::size_t task) {
            const Runs::Piece piece = runs.piece(task);
            const PreparedThreshold<Element>& t = thresholds[piece.threshold];
            backward(grad + piece.begin, x + piece.begin, &t.value, &t.limit, piece.size, k,
                     grad_x + piece.begin, &sums[task]);
        });
        for (std::size_t task = 0; task < sums.size(); ++task)
            totals[runs.piece(task).threshold] += sums[task];
        return write_totals(totals);
    }

    const Matrix matrix(shape);
    // If the only slab has the thresholds as columns, no second stage is needed.
    const bool direct = matrix.slabs() == 1 && matrix.columns_are_thresholds();
    std::vector<double> sums(direct ? 0 : matrix.slabs() * matrix.columns(), 0.0);
    parallel_for(threads, matrix.tasks(), [&](std::size_t task) {
        const Matrix::Block block = matrix.block(task);
        const BlockThresholds<Element> t(matrix, block, mode, threshold, k);
        double sum[Matrix::max_block_columns] = {};
        matrix.for_each_row(block, [&](std::size_t first, std::size_t size) {
            backward(grad + first, x + first, t.value, t.limit, size, k, grad_x + first, sum);
        });
        if (direct)
            std::transform(sum, sum + block.columns, grad_threshold + block.first_column,
                           [](double total) { return static_cast<RealOf<Element>>(total); });
        else
            std::copy_n(sum, block.columns,
                        &sums[block.slab * matrix.columns() + block.first_column]);
    });
    if (direct) return;
    std::vector<double> totals(shape.thresholds, 0.0);
    for (std::size_t task = 0; task < matrix.tasks(); ++task) {
        const Matrix::Block block = matrix.block(task);
        const double* sum = &sums[block.slab * matrix.columns() + block.first_column];
        matrix.for_each_threshold(block, [&](std::size_t column, std::size_t threshold_index) {
            totals[threshold_index] += sum[column];
        });
    }
    write_totals(totals);
}

#define PROACT_INSTANTIATE(Element)                                                             \
    template void hyrelu_forward<Element>(HyReluMode, const HyReluShape&, const Element*,       \
                                          const RealOf<Element>*, double, Element*, Execution); \
    template void hyrelu_backward<Element>(HyReluMode, const HyReluShape&, const Element*,      \
                                           const Element*, const RealOf<Element>*, double,      \
                                           Element*, RealOf<Element>*, Execution);
PROACT_INSTANTIATE(float)
PROACT_INSTANTIATE(double)
PROACT_INSTANTIATE(Float16)
PROACT_INSTANTIATE(BFloat16)

}  // namespace proact
