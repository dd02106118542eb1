// How the loops over host memory run.
#pragma once

#include "isa.hpp"

namespace proact {

/// Neither member changes which bits flip or, in HyReLU's zero and saturate modes, any result. The
/// number of threads changes no result at all; the instruction set changes the last digits of
/// HyReLU's soft mode.
struct Execution {
    Isa isa = chosen_isa();
    unsigned threads = 1;
};

}  // namespace proact
