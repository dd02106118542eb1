// Element types that are only known at run time.
#pragma once

#include <type_traits>

#include "half.hpp"

namespace proact {

/// The values match the order in proact/ops/_hyrelu_native.py.
enum class Dtype { float32, float64, float16, bfloat16 };

/// Calls `use` with a null pointer whose type is the element type of `dtype`.
template <class Use>
PROACT_HOST_DEVICE void with_element(Dtype dtype, Use use) {
    switch (dtype) {
        case Dtype::float32: return use(static_cast<float*>(nullptr));
        case Dtype::float64: return use(static_cast<double*>(nullptr));
        case Dtype::float16: return use(static_cast<Float16*>(nullptr));
        case Dtype::bfloat16: return use(static_cast<BFloat16*>(nullptr));
    }
}

}  // namespace proact
