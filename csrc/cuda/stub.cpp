// The functions of this folder in a build without CUDA.
#include "flips.hpp"
#include "hyrelu.hpp"
#include "range.hpp"
#include "runtime.hpp"
#include "scrub.hpp"

namespace proact::cuda {
namespace {

[[noreturn]] void refuse() {
    throw Failure(
        "proact was built without CUDA: reinstall it where nvcc is found (on PATH, or with "
        "CUDACXX or CUDA_HOME set) and PROACT_CUDA is auto or on, or move the tensors to the CPU");
}

}  // namespace

bool compiled() { return false; }

int runtime_version() { refuse(); }

template <class Element>
void hyrelu_forward(HyReluMode, const HyReluShape&, const Element*, const RealOf<Element>*, double,
                    Element*, Stream) {
    refuse();
}

std::size_t backward_workspace_bytes(const HyReluShape&) { refuse(); }

template <class Element>
void hyrelu_backward(HyReluMode, const HyReluShape&, const Element*, const Element*,
                     const RealOf<Element>*, double, Element*, RealOf<Element>*, void*, Stream) {
    refuse();
}

template void hyrelu_forward(HyReluMode, const HyReluShape&, const float*, const float*, double,
                             float*, Stream);
template void hyrelu_forward(HyReluMode, const HyReluShape&, const double*, const double*, double,
                             double*, Stream);
template void hyrelu_forward(HyReluMode, const HyReluShape&, const Float16*, const float*, double,
                             Float16*, Stream);
template void hyrelu_forward(HyReluMode, const HyReluShape&, const BFloat16*, const float*, double,
                             BFloat16*, Stream);
template void hyrelu_backward(HyReluMode, const HyReluShape&, const float*, const float*,
                              const float*, double, float*, float*, void*, Stream);
template void hyrelu_backward(HyReluMode, const HyReluShape&, const double*, const double*,
                              const double*, double, double*, double*, void*, Stream);
template void hyrelu_backward(HyReluMode, const HyReluShape&, const Float16*, const Float16*,
                              const float*, double, Float16*, float*, void*, Stream);
template void hyrelu_backward(HyReluMode, const HyReluShape&, const BFloat16*, const BFloat16*,
                              const float*, double, BFloat16*, float*, void*, Stream);

void flip(std::uintptr_t, const FlipRate&, const FaultPattern&, const TrialMemory&, Stream) {
    refuse();
}

void restore(std::uintptr_t, const FlipRate&, const TrialMemory&, Stream) { refuse(); }

DevicePlaces device_places_at(std::uintptr_t, std::uint64_t, std::uint64_t) { refuse(); }

void flip(std::uintptr_t, const DevicePlaces&, Stream) { refuse(); }

void restore(std::uintptr_t, const DevicePlaces&, Stream) { refuse(); }

void restore(const SweptMemories&, const DeviceSweepLog&, std::uint64_t, Stream) { refuse(); }

void restrict_range(const SweptMemories&, std::uintptr_t, RangeAction, const DeviceSweepLog&,
                    Stream) {
    refuse();
}

void encode(const SweptMemories&, const DeviceCodes&, Stream) { refuse(); }

void scrub(const SweptMemories&, const DeviceCodes&, const DeviceSweepLog&, Stream) { refuse(); }

}  // namespace proact::cuda
