#include "launch.cuh"
#include "runtime.hpp"

namespace proact::cuda {

bool compiled() { return true; }

int runtime_version() { return version_of_runtime(); }

}  // namespace proact::cuda
