#include "hyrelu_forward.cuh"

namespace proact::cuda {
namespace {

constexpr const char* forward_name = "HyReLU forward";

bool on_pack_boundary(const void* address) {
    return reinterpret_cast<std::uintptr_t>(address) % 16 == 0;
}

template <HyReluMode mode, class Element>
void launch_forward(const HyReluShape& shape, const Element* x, const RealOf<Element>* threshold,
                    double slope, Element* y, Stream stream) {
    constexpr unsigned size = Pack<Element>::size;
    const std::size_t elements = shape.elements();
    launch(forward_name, &forward_kernel<mode, Element>,
           grid_over(elements / size + (elements % size != 0), forward_threads), stream, shape, x,
           threshold, Slope<RealOf<Element>>::of(slope), y,
           on_pack_boundary(x) && on_pack_boundary(y));
}

}  // namespace

template <class Element>
void hyrelu_forward(HyReluMode mode, const HyReluShape& shape, const Element* x,
                    const RealOf<Element>* threshold, double slope, Element* y, Stream stream) {
    const auto chosen = mode == HyReluMode::soft   ? &launch_forward<HyReluMode::soft, Element>
                        : mode == HyReluMode::zero ? &launch_forward<HyReluMode::zero, Element>
                                                   : &launch_forward<HyReluMode::saturate, Element>;
    chosen(shape, x, threshold, slope, y, stream);
}

template void hyrelu_forward(HyReluMode, const HyReluShape&, const float*, const float*, double,
                             float*, Stream);
template void hyrelu_forward(HyReluMode, const HyReluShape&, const double*, const double*, double,
                             double*, Stream);
template void hyrelu_forward(HyReluMode, const HyReluShape&, const Float16*, const float*, double,
                             Float16*, Stream);
template void hyrelu_forward(HyReluMode, const HyReluShape&, const BFloat16*, const float*, double,
                             BFloat16*, Stream);

}  // namespace proact::cuda
