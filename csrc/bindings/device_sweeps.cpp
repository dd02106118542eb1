// Sweeps over GPU memory: bounds of weights, and error-correcting codes.
#include "../cpu/scrub_code.hpp"
#include "../cuda/sweep_plans.hpp"
#include "bindings.hpp"
#include "conversions.hpp"

namespace proact {
namespace {

/// Binds the methods that plans of sweeps over device memory share.
template <class Plan>
py::class_<Plan> device_sweep_class(py::module_& m, const char* name) {
    const auto counts = [](const Plan& plan) {
        return Plan::counts_of_memory * plan.memories().size();
    };
    return py::class_<Plan>(m, name, py::module_local())
        .def(py::init())
        .def("groups", [](const Plan& plan) { return plan.memories().groups(); })
        .def("counts", counts)
        .def(
            "log_bytes",
            [counts](const Plan& plan, std::uint64_t capacity) {
                return cuda::sweep_log_bytes(counts(plan), capacity);
            },
            py::arg("capacity"))
        .def("header_bytes",
             [counts](const Plan& plan) { return cuda::sweep_header_bytes(counts(plan)); })
        .def("described", [](const Plan& plan) { return bytes_of(plan.described()); })
        .def(
            "memories",
            [](const Plan& plan, const Moved& moved) {
                return bytes_of(plan.memories().after(relocations(moved)));
            },
            py::arg("moved"))
        .def(
            "restore",
            [counts](const Plan& plan, std::uint64_t slots, std::uintptr_t memories,
                     std::uintptr_t log, std::uint64_t capacity, int device,
                     std::uintptr_t stream) {
                cuda::restore(plan.memories().at(memories),
                              cuda::sweep_log_at(log, counts(plan), capacity), slots,
                              {device, stream});
            },
            py::arg("slots"), py::arg("memories"), py::arg("log"), py::arg("capacity"),
            py::arg("device"), py::arg("stream"), py::call_guard<py::gil_scoped_release>());
}

}  // namespace

void bind_device_sweeps(py::module_& m) {
    device_sweep_class<cuda::DeviceRangePlan>(m, "DeviceRangePlan")
        .def(
            "add",
            [](cuda::DeviceRangePlan& plan, std::uintptr_t address, std::uint64_t elements,
               int dtype, std::uintptr_t low, std::uintptr_t high, int bound_dtype,
               std::uint64_t channels, std::uint64_t inner) {
                plan.add({address, elements, static_cast<Dtype>(dtype), low, high,
                          static_cast<Dtype>(bound_dtype), channels, inner});
            },
            py::arg("address"), py::arg("elements"), py::arg("dtype"), py::arg("low"),
            py::arg("high"), py::arg("bound_dtype"), py::arg("channels"), py::arg("inner"))
        .def(
            "sweep",
            [](const cuda::DeviceRangePlan& plan, std::uintptr_t description, std::uintptr_t log,
               std::uint64_t capacity, int action, int device, std::uintptr_t stream) {
                plan.sweep(description, static_cast<RangeAction>(action),
                           cuda::sweep_log_at(log, plan.memories().size(), capacity),
                           {device, stream});
            },
            py::arg("description"), py::arg("log"), py::arg("capacity"), py::arg("action"),
            py::arg("device"), py::arg("stream"), unlocked());
    device_sweep_class<cuda::DeviceScrubPlan>(m, "DeviceScrubPlan")
        .def(
            "add",
            [](cuda::DeviceScrubPlan& plan, std::uintptr_t address, std::uint64_t codewords,
               const ScrubCode& code, std::uint32_t word_bytes, std::uint64_t first_word,
               std::uintptr_t low, std::uintptr_t high, int bound_dtype, int dtype,
               std::uint64_t channels, std::uint64_t inner) {
                plan.add(address, codewords, code.tables(), word_bytes, first_word,
                         Replacement{low, high, static_cast<Dtype>(bound_dtype),
                                     static_cast<Dtype>(dtype), channels, inner});
            },
            py::arg("address"), py::arg("codewords"), py::arg("code"), py::arg("word_bytes"),
            py::arg("first_word") = 0, py::arg("low") = 0, py::arg("high") = 0,
            py::arg("bound_dtype") = 0, py::arg("dtype") = 0, py::arg("channels") = 1,
            py::arg("inner") = 1, py::keep_alive<1, 4>())
        .def(
            "sweep",
            [](const cuda::DeviceScrubPlan& plan, std::uintptr_t description, std::uintptr_t log,
               std::uint64_t capacity, int device, std::uintptr_t stream) {
                plan.sweep(description,
                           cuda::sweep_log_at(log, 2 * plan.memories().size(), capacity),
                           {device, stream});
            },
            py::arg("description"), py::arg("log"), py::arg("capacity"), py::arg("device"),
            py::arg("stream"), unlocked())
        .def(
            "encode",
            [](const cuda::DeviceScrubPlan& plan, std::uintptr_t description, int device,
               std::uintptr_t stream) { plan.encode(description, {device, stream}); },
            py::arg("description"), py::arg("device"), py::arg("stream"), unlocked());
}

}  // namespace proact
