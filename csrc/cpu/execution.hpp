// Options for the loops over host memory.
#pragma once

#include "isa.hpp"

namespace proact {

/// How a loop runs. The number of threads changes no result. The instruction set changes only the
/// last digits of HyReLU's soft mode.
struct Execution {
    Isa isa = chosen_isa();
    unsigned threads = 1;
};

}  // namespace proact
