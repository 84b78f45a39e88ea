# What the training programs can train: one line for an objective with the machines that it runs on, one for an encoder.
# Each pair becomes a small translation unit of its own; TESSERA_ARCHS and TESSERA_OBJECTIVES pick which are compiled.
set(TESSERA_ALL_OBJECTIVES moco_v3 simclr supervised mae)
set(TESSERA_ALL_ARCHS vit_tiny vit_tiny_32 vit_tiny_64 vit_small vit_base vit_large vit_huge vit_small_p7 vit_base_p7 vit_large_p7 vit_conv_small
                      vit_conv_base)
set(TESSERA_CONV_ARCHS vit_conv_small vit_conv_base)
# --stop-grad-conv1 is a choice of these objectives, with encoders that have a patch projection.
set(TESSERA_FROZEN_OBJECTIVES moco_v3 simclr)

set(TESSERA_ARCHS vit_tiny vit_tiny_32 vit_tiny_64 vit_small CACHE STRING "Encoders of the example programs, or 'all'")
set(TESSERA_OBJECTIVES all CACHE STRING "Objectives of the example programs, or 'all'; TESSERA_OBJECTIVES_Cpu, _CpuBf16, _MpiCpu, \
_MpiCpuBf16, _Cuda and _NcclCuda pick for one machine")

# Programs for processors have --precision bf16 where a processor has instructions for it, or where it is asked for.
include(CheckCXXSourceCompiles)
check_cxx_source_compiles("
#if !defined(__AVX512BF16__)
#error
#endif
int main() {}" TESSERA_HAS_BF16_PRODUCTS)
foreach(machine IN ITEMS CpuBf16 MpiCpuBf16)
  if(NOT TESSERA_HAS_BF16_PRODUCTS AND NOT DEFINED TESSERA_OBJECTIVES_${machine})
    set(TESSERA_OBJECTIVES_${machine} "")
  endif()
endforeach()

option(TESSERA_STOP_GRAD_CONV1 "Compile encoders for --stop-grad-conv1 too; TESSERA_STOP_GRAD_CONV1_Cpu, ... for one machine" ON)
set(TESSERA_CUDA_ARCHS 80-real 90a-real CACHE STRING "Compute capabilities that the programs for CUDA are compiled for")

# tessera_pick(RESULT WHAT WANTED ALL...): WANTED, of which each must be one of ALL; all of them for 'all'.
function(tessera_pick result what wanted)
  if(wanted STREQUAL "all")
    set(wanted ${ARGN})
  endif()
  foreach(one IN LISTS wanted)
    if(NOT one IN_LIST ARGN)
      message(FATAL_ERROR "tessera: ${what} '${one}' is not known; there are: ${ARGN}")
    endif()
  endforeach()
  set(${result} ${wanted} PARENT_SCOPE)
endfunction()
tessera_pick(archs TESSERA_ARCHS "${TESSERA_ARCHS}" ${TESSERA_ALL_ARCHS})

# tessera_entries(LIBRARY HEADER SUFFIX MACHINES...): an object library with an entry for every pair on each of MACHINES,
# which HEADER defines, and a source that lists them (entries.hpp). SUFFIX: .cpp, or .cu for nvcc.
function(tessera_entries library header suffix)
  set(folder ${CMAKE_CURRENT_BINARY_DIR}/${library})
  set(sources)
  set(declared)
  set(listed)
  foreach(machine IN LISTS ARGN)
    set(wanted "${TESSERA_OBJECTIVES}")
    if(DEFINED TESSERA_OBJECTIVES_${machine})
      set(wanted "${TESSERA_OBJECTIVES_${machine}}")
    endif()
    tessera_pick(objectives TESSERA_OBJECTIVES "${wanted}" ${TESSERA_ALL_OBJECTIVES})
    set(stop_grad_conv1 ${TESSERA_STOP_GRAD_CONV1})
    if(DEFINED TESSERA_STOP_GRAD_CONV1_${machine})
      set(stop_grad_conv1 ${TESSERA_STOP_GRAD_CONV1_${machine}})
    endif()
    foreach(objective IN LISTS objectives)
      foreach(arch IN LISTS archs)
        if(objective STREQUAL "mae" AND arch IN_LIST TESSERA_CONV_ARCHS)
          continue()
        endif()
        foreach(embed IN ITEMS Patches FrozenPatches)
          set(frozen false)
          if(embed STREQUAL "FrozenPatches")
            set(frozen true)
            if(NOT stop_grad_conv1 OR arch IN_LIST TESSERA_CONV_ARCHS OR NOT objective IN_LIST TESSERA_FROZEN_OBJECTIVES)
              continue()
            endif()
          endif()
          set(name ${objective}_${arch}_${embed}_${machine})
          set(source ${folder}/${name}${suffix})
          file(CONFIGURE OUTPUT ${source} @ONLY CONTENT [[
#include "objectives.hpp"
#include "tessera/programs/@header@"
#include "tessera/programs/train.hpp"

namespace entries {
tessera::programs::Entry @name@() {
  return tessera::programs::entry<named::@objective@<archs::@arch@<tessera::embed::@embed@>>,
                                  tessera::programs::@machine@>("@arch@", @frozen@);
}
}  // namespace entries
]])
          list(APPEND sources ${source})
          string(APPEND declared "tessera::programs::Entry ${name}();\n")
          string(APPEND listed "${name}(), ")
        endforeach()
      endforeach()
    endforeach()
  endforeach()
  file(CONFIGURE OUTPUT ${folder}/all.cpp @ONLY CONTENT [[
#include "entries.hpp"

namespace entries {
@declared@
std::vector<tessera::programs::Entry> all() { return {@listed@}; }
}  // namespace entries
]])
  add_library(${library} OBJECT ${sources} ${folder}/all.cpp)
  target_include_directories(${library} PUBLIC ${CMAKE_CURRENT_SOURCE_DIR})
  target_link_libraries(${library} PUBLIC tessera_development)
endfunction()
