// Sweeps over host memory: bounds of weights, and error-correcting codes.
#include <stdexcept>

#include "../cpu/range_sweep.hpp"
#include "../cpu/scrub_sweep.hpp"
#include "bindings.hpp"
#include "conversions.hpp"

namespace proact {
namespace {

std::shared_ptr<ScrubCode> scrub_code(std::uint32_t codeword_bytes, std::uint32_t check_bits,
                                      std::uint64_t payload, const Column<std::uint32_t>& syndromes,
                                      const Column<std::uint64_t>& spread,
                                      const Column<std::uint64_t>& flips,
                                      const Column<std::uint64_t>& keeps,
                                      const Column<std::uint8_t>& is_detected, bool masks) {
    const auto expect = [](const char* what, py::ssize_t wanted, py::ssize_t size) {
        if (size != wanted)
            throw std::invalid_argument("expected " + std::to_string(wanted) + " entries of " +
                                        what + ", got " + std::to_string(size));
    };
    if (check_bits > 24)
        throw std::invalid_argument("expected up to 24 check bits, got " +
                                    std::to_string(check_bits));
    const py::ssize_t by_syndrome = py::ssize_t{1} << check_bits;
    expect("the syndrome tables", 8 * 256, syndromes.size());
    expect("the spread tables", 8 * 256, spread.size());
    expect("flips", by_syndrome, flips.size());
    expect("keeps", by_syndrome, keeps.size());
    expect("is_detected", by_syndrome, is_detected.size());
    return std::make_shared<ScrubCode>(CodeDefinition{codeword_bytes, check_bits, payload,
                                                      syndromes.data(), spread.data(), flips.data(),
                                                      keeps.data(), is_detected.data(), masks});
}

}  // namespace

void bind_sweeps(py::module_& m) {
    py::class_<SweepLog>(m, "SweepLog", py::module_local())
        .def(py::init())
        .def("restore", &SweepLog::restore, unlocked())
        .def("relocate", &relocate<SweepLog>, py::arg("moved"));
    py::class_<RangePlan>(m, "RangePlan", py::module_local())
        .def(py::init())
        .def(
            "add",
            [](RangePlan& plan, std::uintptr_t address, std::uint64_t elements, int dtype,
               std::uintptr_t low, std::uintptr_t high, int bound_dtype, std::uint64_t channels,
               std::uint64_t inner) {
                plan.add({address, elements, static_cast<Dtype>(dtype), low, high,
                          static_cast<Dtype>(bound_dtype), channels, inner});
            },
            py::arg("address"), py::arg("elements"), py::arg("dtype"), py::arg("low"),
            py::arg("high"), py::arg("bound_dtype"), py::arg("channels"), py::arg("inner"))
        .def(
            "sweep_into",
            [](const RangePlan& plan, SweepLog& log, int action, unsigned threads,
               const std::string& isa) {
                return plan.sweep_into(log, static_cast<RangeAction>(action), isa_named(isa),
                                       threads);
            },
            py::arg("log"), py::arg("action"), py::arg("threads") = 1, py::arg("isa") = "",
            unlocked());

    py::class_<ScrubCode, std::shared_ptr<ScrubCode>>(m, "ScrubCode", py::module_local())
        .def(py::init(&scrub_code), py::arg("codeword_bytes"), py::arg("check_bits"),
             py::arg("payload"), py::arg("syndromes"), py::arg("spread"), py::arg("flips"),
             py::arg("keeps"), py::arg("is_detected"), py::arg("masks"))
        .def(
            "encode",
            [](const ScrubCode& code, std::uintptr_t address, std::uint64_t codewords,
               unsigned threads) {
                encode_codewords(code, pointer_to<unsigned char>(address), codewords, threads);
            },
            py::arg("address"), py::arg("codewords"), py::arg("threads") = 1, unlocked());
    py::class_<ScrubPlan>(m, "ScrubPlan", py::module_local())
        .def(py::init())
        .def(
            "add",
            [](ScrubPlan& plan, std::uintptr_t address, std::uint64_t codewords,
               const std::shared_ptr<ScrubCode>& code, std::uint32_t word_bytes,
               std::uint64_t first_word, std::uintptr_t low, std::uintptr_t high, int bound_dtype,
               int dtype, std::uint64_t channels, std::uint64_t inner) {
                plan.add({address, codewords, code, word_bytes, first_word,
                          Replacement{low, high, static_cast<Dtype>(bound_dtype),
                                      static_cast<Dtype>(dtype), channels, inner}});
            },
            py::arg("address"), py::arg("codewords"), py::arg("code"), py::arg("word_bytes"),
            py::arg("first_word") = 0, py::arg("low") = 0, py::arg("high") = 0,
            py::arg("bound_dtype") = 0, py::arg("dtype") = 0, py::arg("channels") = 1,
            py::arg("inner") = 1)
        .def(
            "scrub",
            [](const ScrubPlan& plan, SweepLog* log, unsigned threads, const std::string& isa) {
                std::vector<std::pair<std::uint64_t, std::uint64_t>> counts;
                for (const ScrubCounts& each : plan.scrub(log, isa_named(isa), threads))
                    counts.emplace_back(each.corrected, each.detected);
                return counts;
            },
            py::arg("log"), py::arg("threads") = 1, py::arg("isa") = "", unlocked());
}

}  // namespace proact
