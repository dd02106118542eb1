// The Python module. Its functions take addresses and sizes, and tensor_watch.hpp looks at tensors
// through DLPack's C interface, so the module builds without torch and one binary serves every
// torch version. proact/ops validates all arguments.
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include "core/dtype.hpp"
#include "cpu/changed_scales.hpp"
#include "cpu/codeword_draws.hpp"
#include "cpu/flips.hpp"
#include "cpu/hyrelu.hpp"
#include "cpu/isa.hpp"
#include "cpu/range_sweep.hpp"
#include "cpu/rounding.hpp"
#include "cpu/scrub_sweep.hpp"
#include "cpu/writable.hpp"
#include "cuda/device_plan.hpp"
#include "cuda/hyrelu.hpp"
#include "cuda/runtime.hpp"
#include "cuda/sweep_plans.hpp"
#include "tensor_watch.hpp"

namespace py = pybind11;
using namespace proact;

namespace {

template <class T>
T* pointer_to(std::uintptr_t address) {
    return reinterpret_cast<T*>(address);
}

Isa isa_named(const std::string& wanted) {
    if (wanted.empty()) return chosen_isa();
    std::string names;
    for (const Isa isa : available_isas()) {
        if (name(isa) == wanted) return isa;
        names += (names.empty() ? "" : ", ") + name(isa);
    }
    throw std::invalid_argument("expected an available instruction set (" + names + "), got " +
                                wanted);
}

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

template <class Item>
py::bytes bytes_of(const std::vector<Item>& items) {
    return {reinterpret_cast<const char*>(items.data()), items.size() * sizeof(Item)};
}

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

template <class T>
using Column = py::array_t<T, py::array::c_style | py::array::forcecast>;

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

void flip_places_into(const FaultPlan& plan, FlipLog& log, const Column<std::uint32_t>& tensor,
                      const Column<std::uint64_t>& element, const Column<std::uint8_t>& bit) {
    if (tensor.size() != element.size() || tensor.size() != bit.size())
        throw std::invalid_argument("expected columns of equal length, got " +
                                    std::to_string(tensor.size()) + " tensors, " +
                                    std::to_string(element.size()) + " elements and " +
                                    std::to_string(bit.size()) + " bits");
    const FlipPlaces places{tensor.data(), element.data(), bit.data(),
                            static_cast<std::size_t>(tensor.size())};
    const py::gil_scoped_release unlocked;
    plan.flip_places_into(log, places);
}

using Moved = std::vector<std::tuple<std::uintptr_t, std::uint64_t, std::uintptr_t>>;

std::vector<Relocation> relocations(const Moved& moved) {
    std::vector<Relocation> all;
    for (const auto& [before, bytes, now] : moved) all.push_back({before, bytes, now});
    return all;
}

template <class Log>
void relocate(Log& log, const Moved& moved) {
    log.relocate(relocations(moved));
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

/// Converts a format name and its parameters as in proact/ops/number_formats.py. An empty tuple
/// means that memory holds the stored words themselves.
NumberFormat number_format(const py::tuple& format) {
    if (format.empty()) return MemoryWords{};
    const auto name = format[0].cast<std::string>();
    const auto number = [&](std::size_t i) { return format[i].cast<std::uint64_t>(); };
    const auto small = [&](std::size_t i) { return format[i].cast<std::uint32_t>(); };
    if (name == "fixed_point") return FixedPoint{small(1), small(2)};
    const auto scales = [&](std::size_t i) {
        return Scales{number(i), number(i + 1), number(i + 2), number(i + 3), number(i + 4)};
    };
    const auto small_float = [&] {
        return SmallFloat{small(1), small(2), format[3].cast<std::int32_t>(),
                          format[4].cast<bool>(), format[5].cast<bool>()};
    };
    if (name == "scaled_integers")
        return ScaledIntegers{small(1), scales(4), format[2].cast<bool>(), number(3)};
    if (name == "scaled_floats") return ScaledFloats{small_float(), scales(6)};
    if (name == "float16") return StoredHalf<Float16>{};
    if (name == "bfloat16") return StoredHalf<BFloat16>{};
    if (name == "float32") return StoredFloat{};
    if (name == "small_float") return small_float();
    if (name == "unread") return Unread{small(1)};
    throw std::invalid_argument(
        "expected the number format fixed_point, scaled_integers, scaled_floats, float16, "
        "bfloat16, "
        "float32, small_float or unread, got " +
        name);
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

/// Returns a numpy array that owns the given numbers.
template <class Value>
py::array_t<Value> array_of(std::vector<Value>&& numbers) {
    if (numbers.empty()) return py::array_t<Value>(0);
    auto owned = std::make_unique<std::vector<Value>>(std::move(numbers));
    const auto size = static_cast<py::ssize_t>(owned->size());
    const Value* const data = owned->data();
    const py::capsule owner(owned.get(),
                            [](void* memory) { delete static_cast<std::vector<Value>*>(memory); });
    static_cast<void>(owned.release());
    return py::array_t<Value>(size, data, owner);
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

    using unlocked = py::call_guard<py::gil_scoped_release>;
    m.def("hyrelu", &forward, unlocked());
    m.def("hyrelu_backward", &backward, unlocked());

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

    m.def("cuda_runtime_version", &cuda::runtime_version);
    m.def("cuda_hyrelu", &cuda_forward, unlocked());
    m.def("cuda_hyrelu_backward", &cuda_backward, unlocked());
    m.def("cuda_backward_workspace_bytes",
          [](std::size_t samples, std::size_t thresholds, std::size_t inner) {
              return cuda::backward_workspace_bytes({samples, thresholds, inner});
          });
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

    // The benchmarks compare flips with this lower bound.
    m.def("xor_list", &xor_list, py::arg("address"), py::arg("word_bytes"), py::arg("elements"),
          py::arg("masks"), py::arg("n"), unlocked());
    // Tests compare the plain-Python sampler with this table.
    m.def("binomial_survival",
          [](std::uint64_t n, double p) { return BinomialTable(n, p).survival(); });
}
