#pragma once

#include "conversions.hpp"

namespace proact {

/// Binds the methods that plans for host memory and device memory share.
///
/// All classes are local to their module, so that tests can load a second build beside the first.
template <class Plan>
py::class_<Plan> plan_class(py::module_& m, const char* name) {
    return py::class_<Plan>(m, name, py::module_local())
        .def(py::init())
        .def(
            "add",
            [](Plan& plan, std::uintptr_t address, std::uint64_t words, std::uint32_t word_bytes,
               std::uint64_t stream, std::uint64_t mask, const py::tuple& format) {
                plan.add({address, words, word_bytes, stream, mask, number_format(format)});
            },
            py::arg("address"), py::arg("words"), py::arg("word_bytes"), py::arg("stream"),
            py::arg("mask"), py::arg("format") = py::tuple())
        .def("exposed_bits", &Plan::exposed_bits);
}

}  // namespace proact
