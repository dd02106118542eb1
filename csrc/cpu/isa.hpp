// Which instruction set the vector loops use.
#pragma once

#include <string>
#include <vector>

namespace proact {

enum class Isa { baseline, avx2, avx512 };

/// The ones that this build has and this machine runs, the plainest first.
std::vector<Isa> available_isas();

/// The widest available one, or the one that PROACT_ISA names. Read once.
/// Throws std::runtime_error where PROACT_ISA names none that is available.
Isa chosen_isa();

std::string name(Isa isa);

}  // namespace proact
