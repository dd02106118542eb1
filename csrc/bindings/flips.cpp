// Bit flips in host memory.
#include "../cpu/flips.hpp"

#include <stdexcept>

#include "../core/binomial.hpp"
#include "../cpu/changed_scales.hpp"
#include "../cpu/codeword_draws.hpp"
#include "../cpu/rounding.hpp"
#include "bindings.hpp"
#include "plan_class.hpp"

namespace proact {
namespace {

/// Returns the flips as one numpy array per column: plan index, element, bit, memory word before.
py::tuple columns(const FlipLog& log) {
    const auto n = static_cast<py::ssize_t>(log.size());
    py::array_t<std::uint32_t> tensor(n);
    py::array_t<std::uint64_t> element(n), before(n);
    py::array_t<std::uint8_t> bit(n);
    py::ssize_t row = 0;
    log.for_each([&](std::size_t plan_index, const Flip& flip) {
        tensor.mutable_at(row) = static_cast<std::uint32_t>(plan_index);
        element.mutable_at(row) = flip.element;
        bit.mutable_at(row) = static_cast<std::uint8_t>(flip.bit);
        before.mutable_at(row++) = flip.before;
    });
    return py::make_tuple(tensor, element, bit, before);
}

void flip_places_into(const FaultPlan& plan, FlipLog& log, const Column<std::uint32_t>& tensor,
                      const Column<std::uint64_t>& element, const Column<std::uint8_t>& bit) {
    const FlipPlaces places = flip_places(tensor, element, bit);
    const py::gil_scoped_release released;
    plan.flip_places_into(log, places);
}

/// A lower bound for the cost of flips: XOR with given masks at given elements.
template <class Word>
void xor_words(std::uintptr_t address, std::uintptr_t elements, std::uintptr_t masks,
               std::size_t n) {
    constexpr std::size_t prefetch_distance = 32;
    Word* words = pointer_to<Word>(address);
    const auto* element = pointer_to<const std::uint32_t>(elements);
    const Word* mask = pointer_to<const Word>(masks);
    for (std::size_t i = 0; i < n; ++i) {
        if (i + prefetch_distance < n)
            __builtin_prefetch(words + element[i + prefetch_distance], 1);
        words[element[i]] = static_cast<Word>(words[element[i]] ^ mask[i]);
    }
}

void xor_list(std::uintptr_t address, std::uint32_t word_bytes, std::uintptr_t elements,
              std::uintptr_t masks, std::size_t n) {
    switch (word_bytes) {
        case 1: return xor_words<std::uint8_t>(address, elements, masks, n);
        case 2: return xor_words<std::uint16_t>(address, elements, masks, n);
        case 4: return xor_words<std::uint32_t>(address, elements, masks, n);
        case 8: return xor_words<std::uint64_t>(address, elements, masks, n);
        default:
            throw std::invalid_argument("expected words of 1, 2, 4 or 8 bytes, got " +
                                        std::to_string(word_bytes));
    }
}

/// The layout of scales as in proact/ops/number_formats.py, without an address.
using Layout = std::tuple<std::uint64_t, std::uint64_t, std::uint64_t>;
/// The address, number and size of stored scales, the name of their format with its parameters,
/// their layout, and whether they are zero points.
using Part = std::tuple<std::uintptr_t, std::uint64_t, std::uint32_t, py::tuple, Layout, bool>;

ScaleWord scale_word(const py::tuple& format) {
    const auto name = format[0].cast<std::string>();
    if (name == "power_of_two") return {ScaleWord::Kind::power_of_two};
    if (name == "float32") return {ScaleWord::Kind::float32};
    if (name == "integer") return {ScaleWord::Kind::integer};
    return {ScaleWord::Kind::small_float, std::get<SmallFloat>(number_format(format))};
}

void add_scaled(ChangedScales& scales, std::uintptr_t address, std::uint64_t words,
                std::uint32_t word_bytes, std::uintptr_t clean, std::uint64_t count,
                const Layout& layout, std::uintptr_t zeros, double unit, bool has_negative_zero,
                const std::vector<Part>& parts) {
    const auto laid_out = [](std::uintptr_t at, std::uint64_t n, const Layout& form) {
        return Scales{at, n, std::get<0>(form), std::get<1>(form), std::get<2>(form)};
    };
    ScaledTensor tensor{{address, words, word_bytes, 0, 1},
                        laid_out(clean, count, layout),
                        zeros,
                        unit,
                        has_negative_zero,
                        {}};
    for (const auto& [at, n, bytes, format, form, is_zero_point] : parts)
        tensor.parts.push_back(
            {at, bytes, scale_word(format), laid_out(0, n, form), is_zero_point});
    scales.add(tensor);
}

/// Returns the flips that are left as one numpy array per column (plan index, element, bit), the
/// number of all flips and the number of dropped codewords.
py::tuple draw_codewords(const CodewordPlan& plan, double ber, std::uint64_t seed,
                         std::uint32_t trial, unsigned threads, const std::string& isa) {
    CodewordFlips drawn = [&] {
        const py::gil_scoped_release unlocked;
        return plan.draw(ber, {seed, trial}, {isa_named(isa), threads});
    }();
    return py::make_tuple(array_of(std::move(drawn.tensor)), array_of(std::move(drawn.element)),
                          array_of(std::move(drawn.bit)), drawn.flips, drawn.dropped);
}

/// A log that gives its memory back to its plan when Python drops it. A finalizer in Python would
/// do that too, but Ctrl-C is lost if it arrives in one.
class PlanLog : public FlipLog {
   public:
    explicit PlanLog(py::object plan) : plan_(std::move(plan)) {}
    ~PlanLog() { plan_.cast<const FaultPlan&>().recycle(*this); }
    PlanLog(const PlanLog&) = delete;
    PlanLog& operator=(const PlanLog&) = delete;

   private:
    py::object plan_;
};

}  // namespace

void bind_flips(py::module_& m) {
    m.def(
        "round_to_words",
        [](std::uintptr_t address, std::uint64_t words, std::uint32_t word_bytes,
           const py::tuple& format, unsigned threads) {
            const NumberFormat form = number_format(format);
            const py::gil_scoped_release released;
            round_to_words({address, words, word_bytes, 0, 1, form}, threads);
        },
        py::arg("address"), py::arg("words"), py::arg("word_bytes"), py::arg("format"),
        py::arg("threads"));

    py::class_<FlipLog>(m, "FlipLog", py::module_local())
        .def(py::init())
        .def("__len__", &FlipLog::size)
        .def("tensors", &FlipLog::tensors)
        .def("restore", &FlipLog::restore, py::arg("threads") = 1, unlocked())
        .def("relocate", &relocate<FlipLog>, py::arg("moved"))
        .def("columns", &columns);
    py::class_<PlanLog, FlipLog>(m, "PlanLog", py::module_local());
    py::class_<ChangedScales>(m, "ChangedScales", py::module_local())
        .def(py::init())
        .def("add", &add_scaled, py::arg("address"), py::arg("words"), py::arg("word_bytes"),
             py::arg("clean"), py::arg("count"), py::arg("layout"), py::arg("zeros"),
             py::arg("unit"), py::arg("has_negative_zero"), py::arg("parts"))
        .def("reread_into", &ChangedScales::reread_into, py::arg("log"), py::arg("flips"),
             unlocked());
    plan_class<FaultPlan>(m, "FaultPlan")
        .def("replay_undoes", &FaultPlan::replay_undoes)
        .def(
            "flip_into",
            [](const FaultPlan& plan, FlipLog& log, double ber, std::uint64_t seed,
               std::uint32_t trial, unsigned threads, const std::string& isa) {
                plan.flip_into(log, ber, {seed, trial}, {isa_named(isa), threads});
            },
            py::arg("log"), py::arg("ber"), py::arg("seed"), py::arg("trial"),
            py::arg("threads") = 1, py::arg("isa") = "", unlocked())
        .def(
            "flip_unlogged",
            [](const FaultPlan& plan, double ber, std::uint64_t seed, std::uint32_t trial,
               unsigned threads) {
                return plan.flip_unlogged(ber, {seed, trial}, {chosen_isa(), threads});
            },
            py::arg("ber"), py::arg("seed"), py::arg("trial"), py::arg("threads") = 1, unlocked())
        .def(
            "flip_exactly_into",
            [](const FaultPlan& plan, FlipLog& log, std::uint64_t flips, std::uint64_t seed,
               std::uint32_t trial) { plan.flip_exactly_into(log, flips, {seed, trial}); },
            py::arg("log"), py::arg("flips"), py::arg("seed"), py::arg("trial"), unlocked())
        .def("flip_places_into", &flip_places_into, py::arg("log"), py::arg("tensor"),
             py::arg("element"), py::arg("bit"))
        .def("new_log", [](py::object plan) { return std::make_unique<PlanLog>(std::move(plan)); });

    py::class_<CodewordPlan>(m, "CodewordPlan", py::module_local())
        .def(py::init())
        .def(
            "add",
            [](CodewordPlan& plan, std::uint64_t elements, std::uint64_t stream, std::uint64_t mask,
               std::uint32_t word_bits, std::uint32_t words, std::uint32_t corrects,
               std::uint64_t check_stream, std::uint64_t check_mask, std::uint64_t singles) {
                plan.add({elements, stream, mask, word_bits, words, corrects, check_stream,
                          check_mask, singles});
            },
            py::arg("elements"), py::arg("stream"), py::arg("mask"), py::arg("word_bits"),
            py::arg("words"), py::arg("corrects"), py::arg("check_stream"), py::arg("check_mask"),
            py::arg("singles"))
        .def("draw", &draw_codewords, py::arg("ber"), py::arg("seed"), py::arg("trial"),
             py::arg("threads") = 1, py::arg("isa") = "")
        .def_readonly_static("max_ber", &CodewordPlan::max_ber);

    // The benchmarks compare flips with this lower bound.
    m.def("xor_list", &xor_list, py::arg("address"), py::arg("word_bytes"), py::arg("elements"),
          py::arg("masks"), py::arg("n"), unlocked());
    // Tests compare the plain-Python sampler with this table.
    m.def("binomial_survival",
          [](std::uint64_t n, double p) { return BinomialTable(n, p).survival(); });
}

}  // namespace proact
