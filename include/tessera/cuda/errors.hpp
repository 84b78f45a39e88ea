// Errors with sentences for the status codes of CUDA and cuBLASLt.
#pragma once

#include <cublasLt.h>
#include <cuda_runtime.h>
#include <fmt/format.h>

#include "tessera/core/abi.hpp"
#include "tessera/core/errors.hpp"
#include "tessera/core/index.hpp"

namespace tessera {
inline namespace TESSERA_ABI {
namespace cuda {

// Throws Error unless the call named `what` succeeded; OutOfMemory where memory is missing.
inline void check(cudaError_t status, const char* what) {
  if (status == cudaSuccess) return;
  static_cast<void>(cudaGetLastError());
  switch (status) {
    case cudaErrorMemoryAllocation:
      throw OutOfMemory(
          fmt::format("{} failed: the device or the host has not enough memory; a smaller batch or model "
                      "needs less",
                      what));
    case cudaErrorIllegalAddress:
    case cudaErrorLaunchFailure:
    case cudaErrorMisalignedAddress:
    case cudaErrorIllegalInstruction:
    case cudaErrorHardwareStackError:
    case cudaErrorAssert:
    case cudaErrorECCUncorrectable:
      fail(
          "{} failed: {} ({}); what was on the device is lost: continue from the last checkpoint, and if it happens "
          "again, run under compute-sanitizer to see where",
          what, cudaGetErrorString(status), cudaGetErrorName(status));
    default:
      fail("{} failed: {} ({})", what, cudaGetErrorString(status), cudaGetErrorName(status));
  }
}

inline void check(cublasStatus_t status, const char* what) {
  if (status == CUBLAS_STATUS_ALLOC_FAILED)
    throw OutOfMemory(fmt::format("{} failed: there is not enough memory; a smaller batch or model needs less", what));
  if (status != CUBLAS_STATUS_SUCCESS) fail("{} failed: {}", what, cublasLtGetStatusString(status));
}

struct FreeMemory {
  index free, total;  // bytes
};

// Of the current device.
[[nodiscard]] inline FreeMemory free_memory() {
  std::size_t free = 0, total = 0;
  check(cudaMemGetInfo(&free, &total), "cudaMemGetInfo");
  return {static_cast<index>(free), static_cast<index>(total)};
}

// The oldest compute capability that the kernels are written for: 8.0 has bf16 matrix instructions.
inline constexpr int least_capability = 80;

// Makes `device` the calling thread's. Throws Error if there is none, or none that the kernels run on.
inline int open_device(int device) {
  int count = 0;
  const cudaError_t status = cudaGetDeviceCount(&count);
  if (status == cudaErrorNoDevice || (status == cudaSuccess && count == 0))
    fail("there is no CUDA device on this machine; the CPU backend needs none");
  if (status == cudaErrorInsufficientDriver) {
    static_cast<void>(cudaGetLastError());
    int driver = 0, runtime = 0;
    static_cast<void>(cudaDriverGetVersion(&driver));
    static_cast<void>(cudaRuntimeGetVersion(&runtime));
    if (driver == 0)
      fail("there is no CUDA driver on this machine, so no CUDA device can be used; the CPU backend needs none");
    fail("the CUDA driver is too old: it supports CUDA {}.{}, but this program needs {}.{}; install a newer driver",
         driver / 1000, driver % 1000 / 10, runtime / 1000, runtime % 1000 / 10);
  }
  check(status, "cudaGetDeviceCount");
  if (device < 0 || device >= count)
    fail("there is no CUDA device {}: this machine has {} (0 to {})", device, count, count - 1);
  check(cudaSetDevice(device), "cudaSetDevice");
  int major = 0, minor = 0;
  check(cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device), "cudaDeviceGetAttribute");
  check(cudaDeviceGetAttribute(&minor, cudaDevAttrComputeCapabilityMinor, device), "cudaDeviceGetAttribute");
  if (10 * major + minor < least_capability)
    fail("CUDA device {} has compute capability {}.{}, but bf16 matrix instructions need {}.{} or later", device, major,
         minor, least_capability / 10, least_capability % 10);
  return device;
}

}  // namespace cuda
}  // namespace TESSERA_ABI
}  // namespace tessera
