// The only file that sees Python. It takes addresses and sizes, never tensors, so the module needs
// no torch to build and serves every torch. proact/ops checks whatever reaches these functions.
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include "cpu/flips.hpp"
#include "cpu/hyrelu.hpp"
#include "cpu/isa.hpp"

namespace py = pybind11;
using namespace proact;

namespace {

template <class T>
T* at(std::uintptr_t address) {
    return reinterpret_cast<T*>(address);
}

template <class Real>
void forward(int mode, const HyReluShape& shape, std::uintptr_t x, std::uintptr_t threshold,
             double slope, std::uintptr_t y) {
    hyrelu_forward<Real>(chosen_isa(), static_cast<HyReluMode>(mode), shape, at<const Real>(x),
                         at<const Real>(threshold), static_cast<Real>(slope), at<Real>(y));
}

template <class Real>
void backward(int mode, const HyReluShape& shape, std::uintptr_t grad, std::uintptr_t x,
              std::uintptr_t threshold, double slope, std::uintptr_t grad_x,
              std::uintptr_t grad_threshold) {
    hyrelu_backward<Real>(chosen_isa(), static_cast<HyReluMode>(mode), shape, at<const Real>(grad),
                          at<const Real>(x), at<const Real>(threshold), static_cast<Real>(slope),
                          at<Real>(grad_x), at<Real>(grad_threshold));
}

/// The flips as one numpy array a column: index in the plan, element, bit, memory word before.
py::tuple columns(const FlipLog& log) {
    const auto n = static_cast<py::ssize_t>(log.flips.size());
    py::array_t<std::uint32_t> tensor(n);
    py::array_t<std::uint64_t> element(n), before(n);
    py::array_t<std::uint8_t> bit(n);
    std::size_t i = 0;
    for (const FlipLog::Segment& segment : log.segments)
        for (; i < segment.end; ++i) {
            const auto row = static_cast<py::ssize_t>(i);
            tensor.mutable_at(row) = static_cast<std::uint32_t>(segment.plan_index);
            element.mutable_at(row) = log.flips[i].element();
            bit.mutable_at(row) = static_cast<std::uint8_t>(log.flips[i].bit());
            before.mutable_at(row) = log.flips[i].before();
        }
    return py::make_tuple(tensor, element, bit, before);
}

}  // namespace

PYBIND11_MODULE(_proact, m) {
    m.attr("compiler") = PROACT_COMPILER;
    m.attr("sampler_version") = sampler_version;
    m.attr("cuda") = false;
    m.def("isas", [] {
        std::vector<std::string> names;
        for (const Isa isa : available_isas()) names.push_back(name(isa));
        return names;
    });
    m.def("isa", [] { return name(chosen_isa()); });

    py::class_<HyReluShape>(m, "HyReluShape")
        .def(py::init<std::size_t, std::size_t, std::size_t>(), py::arg("samples"),
             py::arg("thresholds"), py::arg("inner"));
    using unlocked = py::call_guard<py::gil_scoped_release>;
    m.def("hyrelu_float32", &forward<float>, unlocked());
    m.def("hyrelu_float64", &forward<double>, unlocked());
    m.def("hyrelu_backward_float32", &backward<float>, unlocked());
    m.def("hyrelu_backward_float64", &backward<double>, unlocked());

    py::class_<FlipLog>(m, "FlipLog")
        .def(py::init())
        .def("__len__", [](const FlipLog& log) { return log.flips.size(); })
        .def("restore", &FlipLog::restore, unlocked())
        .def("columns", &columns);
    py::class_<FaultPlan>(m, "FaultPlan")
        .def(py::init())
        .def(
            "add",
            [](FaultPlan& plan, std::uintptr_t address, std::uint64_t words,
               std::uint32_t word_bytes, std::uint64_t stream, std::uint64_t mask,
               std::uint32_t fixed_word_bits, std::uint32_t fraction_bits) {
                plan.add(
                    {address, words, word_bytes, stream, mask, {fixed_word_bits, fraction_bits}});
            },
            py::arg("address"), py::arg("words"), py::arg("word_bytes"), py::arg("stream"),
            py::arg("mask"), py::arg("fixed_word_bits") = 0, py::arg("fraction_bits") = 0)
        .def("exposed_bits", &FaultPlan::exposed_bits)
        .def("flip_into", &FaultPlan::flip_into, py::arg("log"), py::arg("ber"), py::arg("seed"),
             py::arg("trial"), unlocked())
        .def("flip_unlogged", &FaultPlan::flip_unlogged, py::arg("ber"), py::arg("seed"),
             py::arg("trial"), unlocked());

    // For the tests that compare the plain-Python sampler with this one.
    m.def("binomial_survival",
          [](std::uint64_t n, double p) { return BinomialTable(n, p).survival(); });
}
