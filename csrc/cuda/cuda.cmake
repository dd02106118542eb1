# Defines the static library proact_cuda, either from the kernels in csrc/cuda or from
# csrc/cuda/stub.cpp. Targets that link it are independent of CUDA.

set(PROACT_CUDA auto CACHE STRING "GPU kernels: auto (where nvcc is found), on, off, or host (tests)")
set_property(CACHE PROACT_CUDA PROPERTY STRINGS auto on off host)
string(TOLOWER "${PROACT_CUDA}" _proact_cuda)
if(NOT _proact_cuda MATCHES "^(auto|on|off|host)$")
  message(FATAL_ERROR "Expected PROACT_CUDA to be auto, on, off or host, got '${PROACT_CUDA}'.")
endif()

set(_proact_kernels csrc/cuda/flips.cu csrc/cuda/hyrelu_backward.cu csrc/cuda/hyrelu_forward.cu
                    csrc/cuda/range.cu csrc/cuda/runtime.cu csrc/cuda/scrub.cu csrc/cuda/sweep.cu)
# A host file that builds binomial tables: no fused multiply-add, as in CMakeLists.txt.
set_source_files_properties(csrc/cuda/flip_rate.cpp PROPERTIES COMPILE_OPTIONS -ffp-contract=off)

# The kernels' source as plain C++: csrc/cuda/host_shim.hpp runs it on host memory, so that tests
# without a GPU reach the Python code that calls it.
if(_proact_cuda STREQUAL "host")
  if(NOT PROACT_TESTS)
    message(FATAL_ERROR "PROACT_CUDA=host is for tests: set PROACT_TESTS=ON, or PROACT_CUDA=off.")
  endif()
  add_library(proact_cuda STATIC csrc/cuda/flip_rate.cpp ${_proact_kernels})
  set_source_files_properties(${_proact_kernels} PROPERTIES LANGUAGE CXX COMPILE_OPTIONS "-x;c++")
  target_compile_options(proact_cuda PRIVATE -O2 -Wall -Wextra -fvisibility=hidden)
  target_link_libraries(proact_cuda PRIVATE Threads::Threads)
  message(STATUS "proact: with CUDA kernels that run on the host, for tests")
  return()
endif()

set(_proact_nvcc OFF)
if(NOT _proact_cuda STREQUAL "off")
  # CMake searches CUDACXX and then PATH for nvcc. CUDA_HOME is the variable that torch uses.
  foreach(_proact_home IN ITEMS "$ENV{CUDA_HOME}" "$ENV{CUDA_PATH}")
    if(NOT DEFINED CMAKE_CUDA_COMPILER AND NOT DEFINED ENV{CUDACXX}
       AND EXISTS "${_proact_home}/bin/nvcc")
      set(ENV{CUDACXX} "${_proact_home}/bin/nvcc")
    endif()
  endforeach()
  # This test must precede enable_language, which sets the variable to the compiler's default.
  set(_proact_choose_architectures ON)
  if(DEFINED CMAKE_CUDA_ARCHITECTURES OR DEFINED ENV{CUDAARCHS})
    set(_proact_choose_architectures OFF)
  endif()
  # check_language keeps a search that found nothing; nvcc may have been installed since.
  if(NOT CMAKE_CUDA_COMPILER)
    unset(CMAKE_CUDA_COMPILER CACHE)
  endif()
  include(CheckLanguage)
  check_language(CUDA)
  if(CMAKE_CUDA_COMPILER)
    enable_language(CUDA)
    if(CMAKE_CUDA_COMPILER_VERSION VERSION_GREATER_EQUAL 12.0)
      set(_proact_nvcc ON)
    endif()
  endif()
  if(_proact_cuda STREQUAL "on" AND NOT _proact_nvcc)
    message(FATAL_ERROR "PROACT_CUDA=on, but no nvcc of CUDA 12 or later was found: put it on PATH, "
                        "set CUDACXX to it or CUDA_HOME to its toolkit, or set PROACT_CUDA=off.")
  endif()
endif()

if(NOT _proact_nvcc)
  add_library(proact_cuda STATIC csrc/cuda/flip_rate.cpp csrc/cuda/stub.cpp)
  target_compile_options(proact_cuda PRIVATE -Wall -Wextra -Wpedantic -Wconversion -fvisibility=hidden)
  set_target_properties(proact_cuda PROPERTIES POSITION_INDEPENDENT_CODE ON)
  message(STATUS "proact: without CUDA")
  return()
endif()

# Build machine code for every GPU from Turing on that the compiler supports. Code for one minor
# version runs on later ones of the same generation (8.6 on 8.7, 10.0 on 10.3, 12.0 on 12.1). PTX
# serves future GPUs.
if(_proact_choose_architectures)
  if(CMAKE_CUDA_COMPILER_VERSION VERSION_GREATER_EQUAL 12.8)
    set(_proact_architectures 75-real 80-real 86-real 89-real 90-real 100-real 120-real 120-virtual)
  else()
    set(_proact_architectures 75-real 80-real 86-real 89-real 90-real 90-virtual)
  endif()
  set(CMAKE_CUDA_ARCHITECTURES "${_proact_architectures}" CACHE STRING "CUDA architectures" FORCE)
endif()

add_library(proact_cuda STATIC csrc/cuda/flip_rate.cpp ${_proact_kernels})
set_target_properties(
  proact_cuda
  PROPERTIES CUDA_STANDARD 17
             CUDA_STANDARD_REQUIRED ON
             CUDA_EXTENSIONS OFF
             CUDA_RUNTIME_LIBRARY Static
             CUDA_VISIBILITY_PRESET hidden
             CXX_VISIBILITY_PRESET hidden
             POSITION_INDEPENDENT_CODE ON)
target_compile_options(
  proact_cuda PRIVATE $<$<COMPILE_LANGUAGE:CUDA>:-Xcompiler=-Wall,-Wextra>
                      $<$<COMPILE_LANGUAGE:CXX>:-Wall -Wextra -Wpedantic -Wconversion>)
# Not in users' builds: another nvcc or host compiler may have warnings of its own.
if(PROACT_TESTS)
  target_compile_options(proact_cuda PRIVATE $<$<COMPILE_LANGUAGE:CUDA>:-Werror=all-warnings>)
endif()
# The runtime is linked into this library statically; targets that link it must not add the shared
# one.
set(CMAKE_CUDA_RUNTIME_LIBRARY Static)
message(STATUS "proact: with CUDA ${CMAKE_CUDA_COMPILER_VERSION}")
