// Search for values outside their range, for the baseline with 16-byte registers.
#include "range_kernels.hpp"
#include "vectors.hpp"

namespace proact {

namespace baseline {
constexpr std::size_t vector_bytes = 16;
#include "range_kernels.inl"
}  // namespace baseline

template <class Element>
FirstOutside<Element> baseline_first_outside() {
    return baseline::first_outside<Element>;
}
template FirstOutside<float> baseline_first_outside();
template FirstOutside<double> baseline_first_outside();
template FirstOutside<Float16> baseline_first_outside();
template FirstOutside<BFloat16> baseline_first_outside();

}  // namespace proact
