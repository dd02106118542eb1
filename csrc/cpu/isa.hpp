// Selection of the instruction set for the vector loops.
#pragma once

#include <string>
#include <vector>

namespace proact {

enum class Isa { baseline, avx2, avx512 };

/// Returns the instruction sets that both the build and the machine support, narrowest first.
std::vector<Isa> available_isas();

/// Returns the widest available instruction set, or the one named by PROACT_ISA, which is read
/// once. Throws std::runtime_error if PROACT_ISA names an unavailable one.
Isa chosen_isa();

std::string name(Isa isa);

}  // namespace proact
