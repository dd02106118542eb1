// HyReLU on CPUs and GPUs.
#include "../cpu/hyrelu.hpp"

#include "../core/dtype.hpp"
#include "../cuda/hyrelu.hpp"
#include "bindings.hpp"
#include "conversions.hpp"

namespace proact {
namespace {

void forward(int dtype, int mode, std::size_t samples, std::size_t thresholds, std::size_t inner,
             std::uintptr_t x, std::uintptr_t threshold, double slope, std::uintptr_t y,
             unsigned threads, const std::string& isa) {
    const Execution execution = {isa_named(isa), threads};
    with_element(static_cast<Dtype>(dtype), [&](auto* type) {
        using Element = std::remove_pointer_t<decltype(type)>;
        using Real = typename Arithmetic<Element>::Real;
        hyrelu_forward<Element>(static_cast<HyReluMode>(mode), {samples, thresholds, inner},
                                pointer_to<const Element>(x), pointer_to<const Real>(threshold),
                                slope, pointer_to<Element>(y), execution);
    });
}

void backward(int dtype, int mode, std::size_t samples, std::size_t thresholds, std::size_t inner,
              std::uintptr_t grad, std::uintptr_t x, std::uintptr_t threshold, double slope,
              std::uintptr_t grad_x, std::uintptr_t grad_threshold, unsigned threads,
              const std::string& isa) {
    const Execution execution = {isa_named(isa), threads};
    with_element(static_cast<Dtype>(dtype), [&](auto* type) {
        using Element = std::remove_pointer_t<decltype(type)>;
        using Real = typename Arithmetic<Element>::Real;
        hyrelu_backward<Element>(static_cast<HyReluMode>(mode), {samples, thresholds, inner},
                                 pointer_to<const Element>(grad), pointer_to<const Element>(x),
                                 pointer_to<const Real>(threshold), slope,
                                 pointer_to<Element>(grad_x), pointer_to<Real>(grad_threshold),
                                 execution);
    });
}

void cuda_forward(int dtype, int mode, std::size_t samples, std::size_t thresholds,
                  std::size_t inner, std::uintptr_t x, std::uintptr_t threshold, double slope,
                  std::uintptr_t y, int device, std::uintptr_t stream) {
    with_element(static_cast<Dtype>(dtype), [&](auto* type) {
        using Element = std::remove_pointer_t<decltype(type)>;
        using Real = typename Arithmetic<Element>::Real;
        cuda::hyrelu_forward<Element>(static_cast<HyReluMode>(mode), {samples, thresholds, inner},
                                      pointer_to<const Element>(x),
                                      pointer_to<const Real>(threshold), slope,
                                      pointer_to<Element>(y), {device, stream});
    });
}

void cuda_backward(int dtype, int mode, std::size_t samples, std::size_t thresholds,
                   std::size_t inner, std::uintptr_t grad, std::uintptr_t x,
                   std::uintptr_t threshold, double slope, std::uintptr_t grad_x,
                   std::uintptr_t grad_threshold, std::uintptr_t workspace, int device,
                   std::uintptr_t stream) {
    with_element(static_cast<Dtype>(dtype), [&](auto* type) {
        using Element = std::remove_pointer_t<decltype(type)>;
        using Real = typename Arithmetic<Element>::Real;
        cuda::hyrelu_backward<Element>(
            static_cast<HyReluMode>(mode), {samples, thresholds, inner},
            pointer_to<const Element>(grad), pointer_to<const Element>(x),
            pointer_to<const Real>(threshold), slope, pointer_to<Element>(grad_x),
            pointer_to<Real>(grad_threshold), pointer_to<void>(workspace), {device, stream});
    });
}

}  // namespace

void bind_hyrelu(py::module_& m) {
    m.def("hyrelu", &forward, unlocked());
    m.def("hyrelu_backward", &backward, unlocked());
    m.def("cuda_hyrelu", &cuda_forward, unlocked());
    m.def("cuda_hyrelu_backward", &cuda_backward, unlocked());
    m.def("cuda_backward_workspace_bytes",
          [](std::size_t samples, std::size_t thresholds, std::size_t inner) {
              return cuda::backward_workspace_bytes({samples, thresholds, inner});
          });
}

}  // namespace proact
