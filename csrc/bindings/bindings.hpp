// The parts of the Python module. Each function adds one part to the module.
#pragma once

#include <pybind11/pybind11.h>

namespace proact {

void bind_hyrelu(pybind11::module_& m);
void bind_flips(pybind11::module_& m);
void bind_sweeps(pybind11::module_& m);
void bind_device_flips(pybind11::module_& m);
void bind_device_sweeps(pybind11::module_& m);

}  // namespace proact
