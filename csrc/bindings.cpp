// The Python module. Its functions take addresses and sizes, and bindings/tensor_watch.hpp looks at
// tensors through DLPack's C interface, so the module builds without torch and one binary serves
// every torch version. proact/ops validates all arguments.
#include "bindings/bindings.hpp"

#include "bindings/conversions.hpp"
#include "bindings/tensor_watch.hpp"
#include "core/fault_block.hpp"
#include "cpu/writable.hpp"
#include "cuda/runtime.hpp"

using namespace proact;

PYBIND11_MODULE(_proact, m) {
    py::register_local_exception<cuda::Failure>(
        m, "CudaError", py::module_::import("proact.errors").attr("ProactError"));
    m.attr("compiler") = PROACT_COMPILER;
    m.attr("sampler_version") = sampler_version;
    m.attr("cuda") = cuda::compiled();
    m.def("isas", [] {
        std::vector<std::string> names;
        for (const Isa isa : available_isas()) names.push_back(name(isa));
        return names;
    });
    m.def("isa", [] { return name(chosen_isa()); });
    m.def("cuda_runtime_version", &cuda::runtime_version);

    m.def("is_writable", &is_writable, py::arg("address"), py::arg("bytes"));
    py::class_<TensorWatch>(m, "TensorWatch", py::module_local())
        .def(py::init<const py::capsule&>(), py::arg("api"))
        .def("add", &TensorWatch::add, py::arg("tensor"), py::arg("bytes_of_storage"),
             py::arg("needed"))
        .def("in_place", &TensorWatch::in_place, py::arg("numbers"));
    py::class_<ModelWatch>(m, "ModelWatch", py::module_local())
        .def(py::init<const py::capsule&, py::handle>(), py::arg("api"), py::arg("model"))
        .def("matches", &ModelWatch::matches, py::arg("model"))
        .def("still_holds", &ModelWatch::still_holds, py::arg("model"), py::arg("addresses"))
        .def("tensors", &ModelWatch::tensors, py::arg("model"));

    bind_hyrelu(m);
    bind_flips(m);
    bind_sweeps(m);
    bind_device_flips(m);
    bind_device_sweeps(m);
}
