# Settings of our own programs, tests and benchmarks; users of the library see none of them.

# tessera_development: warnings, which the presets of the tests make errors, and every component.
add_library(tessera_development INTERFACE)
target_compile_options(tessera_development INTERFACE
  $<$<COMPILE_LANGUAGE:CXX>:-Wall -Wextra -Wpedantic -Wshadow -Wconversion>)
if(CMAKE_CXX_COMPILER_ID STREQUAL "GNU")
  # g++ 12 reports its own AVX-512 intrinsics (GCC bug 105593), and vectors of sizes it cannot know.
  target_compile_options(tessera_development INTERFACE
    $<$<COMPILE_LANGUAGE:CXX>:-Wno-maybe-uninitialized -Wno-uninitialized -Wno-alloc-size-larger-than>)
endif()
foreach(component io data image programs)
  if(TARGET tessera_${component})
    target_link_libraries(tessera_development INTERFACE tessera::${component})
  else()
    message(FATAL_ERROR "tessera: the examples and tests need component '${component}', but its library was not found; "
                        "tests/run.sh and examples/quickstart.sh install what is missing on Debian")
  endif()
endforeach()

# The matrix product.
if(TESSERA_MATMUL STREQUAL "auto")
  set(matmul packed)
  foreach(candidate cblas onednn)
    if(TARGET tessera_${candidate})
      set(matmul ${candidate})
    endif()
  endforeach()
else()
  set(matmul ${TESSERA_MATMUL})
endif()
if(matmul STREQUAL "packed")
  # With -march=native on AMD's Zen, g++ splits chains of fused multiply-adds, and kernels of C++ lose a fifth.
  if(CMAKE_CXX_COMPILER_ID STREQUAL "GNU")
    target_compile_options(tessera_development INTERFACE -mtune=generic)
  endif()
elseif(TARGET tessera_${matmul})
  target_link_libraries(tessera_development INTERFACE tessera::${matmul})
else()
  message(FATAL_ERROR "tessera: TESSERA_MATMUL=${matmul}, but that library was not found")
endif()
message(STATUS "tessera: matrix products by ${matmul}")

find_program(TESSERA_CCACHE ccache)
# Checkouts in different folders share the cache: paths within one are taken as relative.
set(ccache_launcher ${CMAKE_COMMAND} -E env CCACHE_BASEDIR=${PROJECT_SOURCE_DIR} CCACHE_NOHASHDIR=1 ${TESSERA_CCACHE})
if(TESSERA_CCACHE AND NOT CMAKE_CXX_COMPILER_LAUNCHER)
  set(CMAKE_CXX_COMPILER_LAUNCHER ${ccache_launcher})
endif()

# nvcc: TESSERA_HAS_NVCC says whether there is one. The CUDA part is compiled for the device it is tuned for, and its
# example also for the oldest that the kernels are written for.
set(TESSERA_HAS_NVCC FALSE)
if(TARGET tessera_cuda)
  find_program(TESSERA_NVCC nvcc HINTS ${CUDAToolkit_BIN_DIR})
  if(TESSERA_NVCC)
    set(CMAKE_CUDA_COMPILER ${TESSERA_NVCC})
    set(CMAKE_CUDA_HOST_COMPILER ${CMAKE_CXX_COMPILER})
    if(NOT CMAKE_CUDA_ARCHITECTURES)
      set(CMAKE_CUDA_ARCHITECTURES 90a-real)
    endif()
    enable_language(CUDA)
    if(TESSERA_CCACHE AND NOT CMAKE_CUDA_COMPILER_LAUNCHER)
      set(CMAKE_CUDA_COMPILER_LAUNCHER ${ccache_launcher})
    endif()
    set(TESSERA_HAS_NVCC TRUE)
    message(STATUS "tessera: CUDA ${CUDAToolkit_VERSION} for ${CMAKE_CUDA_ARCHITECTURES}")
  endif()
endif()
if(NOT TESSERA_HAS_NVCC)
  if(TESSERA_CUDA)
    message(FATAL_ERROR "tessera: TESSERA_CUDA is on, but nvcc and the CUDA toolkit were not found; put nvcc on PATH or "
                        "set CUDAToolkit_ROOT")
  endif()
  message(STATUS "tessera: nvcc and the CUDA toolkit were not found; the CUDA part is left out")
endif()
