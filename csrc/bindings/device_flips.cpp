// Bit flips in GPU memory.
#include "../cuda/device_plan.hpp"
#include "bindings.hpp"
#include "plan_class.hpp"

namespace proact {
namespace {

/// One tensor in the memory of a trial: blocks, slots, and the offsets in bytes of counts, old
/// words, elements and bits.
using DeviceLogPlace = std::tuple<std::uint64_t, std::uint64_t, std::uint64_t, std::uint64_t,
                                  std::uint64_t, std::uint64_t>;

std::vector<DeviceLogPlace> device_log_places(const cuda::FlipRate& rate) {
    std::vector<DeviceLogPlace> all;
    for (const cuda::DeviceLaw& law : rate.laws())
        all.emplace_back(law.blocks, law.slots, law.counts, law.before, law.element, law.bit);
    return all;
}

}  // namespace

void bind_device_flips(py::module_& m) {
    py::class_<cuda::FlipRate>(m, "FlipRate", py::module_local())
        .def("tables", [](const cuda::FlipRate& rate) { return bytes_of(rate.tables()); })
        .def("bytes", &cuda::FlipRate::bytes, py::arg("is_logged"))
        .def("bytes_to_clear", &cuda::FlipRate::bytes_to_clear)
        .def("places", &device_log_places)
        .def(
            "flip",
            [](const cuda::FlipRate& rate, std::uint64_t seed, std::uint32_t trial,
               std::uintptr_t tensors, std::uintptr_t tables, std::uintptr_t memory, bool is_logged,
               int device, std::uintptr_t stream) {
                cuda::flip(tensors, rate, {seed, trial}, {tables, memory, is_logged},
                           {device, stream});
            },
            py::arg("seed"), py::arg("trial"), py::arg("tensors"), py::arg("tables"),
            py::arg("memory"), py::arg("is_logged"), py::arg("device"), py::arg("stream"),
            unlocked())
        .def(
            "restore",
            [](const cuda::FlipRate& rate, std::uintptr_t tensors, std::uintptr_t tables,
               std::uintptr_t memory, int device, std::uintptr_t stream) {
                cuda::restore(tensors, rate, {tables, memory, true}, {device, stream});
            },
            py::arg("tensors"), py::arg("tables"), py::arg("memory"), py::arg("device"),
            py::arg("stream"), unlocked());
    plan_class<cuda::DevicePlan>(m, "DevicePlan")
        .def("described", [](const cuda::DevicePlan& plan) { return bytes_of(plan.described()); })
        .def(
            "described_after",
            [](const cuda::DevicePlan& plan, const Moved& moved) {
                return bytes_of(plan.described_after(relocations(moved)));
            },
            py::arg("moved"))
        .def(
            "check_places",
            [](const cuda::DevicePlan& plan, const Column<std::uint32_t>& tensor,
               const Column<std::uint64_t>& element,
               const Column<std::uint8_t>& bit) { plan.check(flip_places(tensor, element, bit)); },
            py::arg("tensor"), py::arg("element"), py::arg("bit"))
        .def("rate", &cuda::DevicePlan::rate, py::arg("ber"))
        .def(
            "flips",
            [](const cuda::DevicePlan& plan, const cuda::FlipRate& rate, std::uint64_t seed,
               std::uint32_t trial) { return plan.flips(rate, {seed, trial}); },
            py::arg("rate"), py::arg("seed"), py::arg("trial"), unlocked())
        .def(
            "hit",
            [](const cuda::DevicePlan& plan, const cuda::FlipRate& rate, std::uint64_t seed,
               std::uint32_t trial) { return plan.hit(rate, {seed, trial}); },
            py::arg("rate"), py::arg("seed"), py::arg("trial"));
    m.def(
        "device_flip_places",
        [](std::uint64_t words, std::uint64_t flips, std::uintptr_t tensors, std::uintptr_t memory,
           int device, std::uintptr_t stream) {
            cuda::flip(tensors, cuda::device_places_at(memory, words, flips), {device, stream});
        },
        py::arg("words"), py::arg("flips"), py::arg("tensors"), py::arg("memory"),
        py::arg("device"), py::arg("stream"), unlocked());
    m.def(
        "device_restore_places",
        [](std::uint64_t words, std::uint64_t flips, std::uintptr_t tensors, std::uintptr_t memory,
           int device, std::uintptr_t stream) {
            cuda::restore(tensors, cuda::device_places_at(memory, words, flips), {device, stream});
        },
        py::arg("words"), py::arg("flips"), py::arg("tensors"), py::arg("memory"),
        py::arg("device"), py::arg("stream"), unlocked());
}

}  // namespace proact
