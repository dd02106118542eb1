#include "isa.hpp"

#include <cstdlib>
#include <stdexcept>

#if defined(__x86_64__)
#include <cpuid.h>
#endif

namespace proact {
namespace {

#if defined(__x86_64__)
/// Queries CPUID directly, because __builtin_cpu_supports of some clang versions does not know
/// f16c.
bool converts_halves() {
    unsigned eax = 0, ebx = 0, ecx = 0, edx = 0;
    return __get_cpuid(1, &eax, &ebx, &ecx, &edx) != 0 && (ecx & bit_F16C) != 0;
}
#endif

Isa choose() {
    const std::vector<Isa> available = available_isas();
    const char* forced = std::getenv("PROACT_ISA");
    if (forced == nullptr || *forced == '\0') return available.back();

    std::string names;
    for (const Isa isa : available) {
        if (name(isa) == forced) return isa;
        names += (names.empty() ? "" : ", ") + name(isa);
    }
    throw std::runtime_error("PROACT_ISA is '" + std::string(forced) +
                             "', but this machine and build offer: " + names);
}

}  // namespace

std::vector<Isa> available_isas() {
    std::vector<Isa> isas = {Isa::baseline};
#if defined(__x86_64__)
    __builtin_cpu_init();
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && converts_halves())
        isas.push_back(Isa::avx2);
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") &&
        __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512bw"))
        isas.push_back(Isa::avx512);
#endif
    return isas;
}

Isa chosen_isa() {
    static const Isa isa = choose();
    return isa;
}

std::string name(Isa isa) {
    switch (isa) {
        case Isa::avx512: return "avx512";
        case Isa::avx2: return "avx2";
        default: return "baseline";
    }
}

}  // namespace proact
