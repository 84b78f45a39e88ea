// The CUDA backend: a scalar type, a device with its stream and memory, and matrix products by cuBLASLt. Its operations
// are the free functions of this folder; operations.hpp has their contracts. Compiled by nvcc; needs tessera::cuda.
#pragma once

#include <cuda_runtime.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <type_traits>
#include <utility>

#include "tessera/core/abi.hpp"
#include "tessera/core/arena.hpp"
#include "tessera/core/rows.hpp"
#include "tessera/core/scalar.hpp"
#include "tessera/cuda/errors.hpp"
#include "tessera/cuda/lane.hpp"
#include "tessera/cuda/products.hpp"
#include "tessera/cuda/stream.hpp"

namespace tessera {
inline namespace TESSERA_ABI {
namespace cuda {

// Zeroed bytes on the current device, aligned to `alignment`.
class Memory {
 public:
  Memory() = default;

  // Throws OutOfMemory if the device does not have that much.
  explicit Memory(index bytes) : size_(divide_up(bytes, alignment) * alignment) {
    if (size_ == 0) return;
    void* data = nullptr;
    const cudaError_t status = cudaMalloc(&data, static_cast<std::size_t>(size_));
    if (status == cudaErrorMemoryAllocation) {
      static_cast<void>(cudaGetLastError());
      const FreeMemory memory = free_memory();
      throw OutOfMemory(fmt::format("the device has not enough memory: {} in one piece are needed, {} of {} are free",
                                    memory_text(bytes), memory_text(memory.free), memory_text(memory.total)));
    }
    check(status, "cudaMalloc");
    data_.reset(static_cast<std::byte*>(data));
    check(cudaMemset(data, 0, static_cast<std::size_t>(size_)), "cudaMemset");
    check(cudaDeviceSynchronize(), "cudaMemset");  // a backend's stream does not wait for other streams
  }

  [[nodiscard]] std::byte* data() const noexcept { return data_.get(); }
  [[nodiscard]] index size() const noexcept { return size_; }

 private:
  struct Free {
    void operator()(std::byte* bytes) const noexcept { static_cast<void>(cudaFree(bytes)); }
  };
  std::unique_ptr<std::byte, Free> data_;
  index size_ = 0;
};

template <class Element>
using Buffer = tessera::Buffer<Memory, Element>;

// Memory of the host that the device copies from and to without waiting.
template <class Element>
class PinnedBuffer {
 public:
  PinnedBuffer() = default;
  explicit PinnedBuffer(index count) : size_(count) {
    void* data = nullptr;
    check(cudaMallocHost(&data, static_cast<std::size_t>(count) * sizeof(Element)), "cudaMallocHost");
    data_.reset(static_cast<Element*>(data));
  }

  [[nodiscard]] Element* data() const noexcept { return data_.get(); }
  [[nodiscard]] index size() const noexcept { return size_; }

 private:
  struct Free {
    void operator()(Element* data) const noexcept { static_cast<void>(cudaFreeHost(data)); }
  };
  std::unique_ptr<Element, Free> data_;
  index size_ = 0;
};

// Work that is recorded once and replayed as one CUDA graph.
class Recording {
 public:
  [[nodiscard]] bool empty() const noexcept { return graph_ == nullptr; }
  void reset() noexcept { graph_.reset(); }

 private:
  template <class>
  friend class Backend;
  Owned<cudaGraphExec_t, cudaGraphExecDestroy> graph_;
};

// One device. Work is queued on one stream and done asynchronously; calls that bring results to the host wait for it.
template <class Scalar_>
class Backend {
  static_assert(std::is_same_v<Scalar_, float> || std::is_same_v<Scalar_, bf16>,
                "tessera: the CUDA backend computes in float or bf16");

 public:
  using Scalar = Scalar_;
  static constexpr bool on_host = false;
  using Arena = tessera::Arena<Memory>;
  using Recording = cuda::Recording;
  using Lane = cuda::Lane<Backend>;
  template <class Element>
  using Buffer = cuda::Buffer<Element>;

  // Throws Error, which says what to do, if there is no device of that number, or none that these kernels run on.
  explicit Backend(int device = 0) : device_(open_device(device)) {}
  Backend(const Backend&) = delete;
  Backend& operator=(const Backend&) = delete;

  [[nodiscard]] int device() const noexcept { return device_; }
  [[nodiscard]] std::string name() const {
    cudaDeviceProp properties;
    check(cudaGetDeviceProperties(&properties, device_), "cudaGetDeviceProperties");
    return properties.name;
  }
  [[nodiscard]] cudaStream_t stream() const noexcept { return stream_.get(); }
  [[nodiscard]] Arena& arena() noexcept { return arena_; }
  [[nodiscard]] Products& products() noexcept { return products_; }
  [[nodiscard]] const Products& products() const noexcept { return products_; }

  // True while nothing is computed: the arena's height is found, or algorithms of products are chosen.
  [[nodiscard]] bool planning() const noexcept { return arena_.planning() || products_.choosing(); }

  // Runs body, a step whose memory is planned, only to find the fastest algorithm for each of its products. Times are
  // those of noise in the arena: with zeros a device needs less power, and may clock higher.
  template <class Body>
  void choose_products(Body&& body) {
    fill_with_noise(*this);
    products_.set_choosing(true);
    try {
      body();
    } catch (...) {
      products_.set_choosing(false);
      throw;
    }
    products_.set_choosing(false);
    wait();
  }

  // The bytes that planning may use: the free memory less a reserve for graphs, kernels and libraries.
  [[nodiscard]] static index free_bytes() {
    constexpr index most = index{512} << 20;
    const FreeMemory memory = free_memory();
    return memory.free - (std::min)(memory.total / 64, most);
  }

  void wait() const { check(cudaStreamSynchronize(stream()), "a kernel of the step"); }

  // to[0, count) = from[0, count), from host to device memory, in the stream's order. The host may reuse `from` at
  // once, unless it is pinned memory.
  template <class Element>
  void upload(index count, const Element* from, Element* to) const {
    check(
        cudaMemcpyAsync(to, from, static_cast<std::size_t>(count) * sizeof(Element), cudaMemcpyHostToDevice, stream()),
        "cudaMemcpyAsync");
  }
  // The copy from device to host memory; blocks the host until it is done.
  template <class Element>
  void download(index count, const Element* from, Element* to) const {
    check(
        cudaMemcpyAsync(to, from, static_cast<std::size_t>(count) * sizeof(Element), cudaMemcpyDeviceToHost, stream()),
        "cudaMemcpyAsync");
    wait();
  }
  // The copy within the device, in the stream's order.
  template <class Element>
  void copy(index count, const Element* from, Element* to) const {
    if (planning()) return;
    check(cudaMemcpyAsync(to, from, static_cast<std::size_t>(count) * sizeof(Element), cudaMemcpyDeviceToDevice,
                          stream()),
          "cudaMemcpyAsync");
  }
  template <class Element>
  void clear(index count, Element* to) const {
    if (planning()) return;
    check(cudaMemsetAsync(to, 0, static_cast<std::size_t>(count) * sizeof(Element), stream()), "cudaMemsetAsync");
  }

  // Replays the work that body() puts on the stream. The first call records it.
  template <class Body>
  void replay(Recording& recording, Body&& body) {
    if (recording.empty()) record(recording, std::forward<Body>(body));
    check(cudaGraphLaunch(recording.graph_.get(), stream()), "cudaGraphLaunch");
  }

 private:
  template <class Body>
  void record(Recording& recording, Body&& body) {
    check(cudaStreamBeginCapture(stream(), cudaStreamCaptureModeThreadLocal), "cudaStreamBeginCapture");
    cudaGraph_t graph = nullptr;
    try {
      body();
    } catch (...) {
      static_cast<void>(cudaStreamEndCapture(stream(), &graph));
      if (graph != nullptr) static_cast<void>(cudaGraphDestroy(graph));
      throw;
    }
    check(cudaStreamEndCapture(stream(), &graph), "cudaStreamEndCapture");
    cudaGraphExec_t executable = nullptr;
    const cudaError_t status = cudaGraphInstantiate(&executable, graph, 0);
    static_cast<void>(cudaGraphDestroy(graph));
    check(status, "cudaGraphInstantiate");
    recording.graph_.reset(executable);
  }

  int device_;
  Stream stream_;
  Arena arena_;
  Products products_{device_};
};

// The shared memory that a block has without asking for more.
inline constexpr index default_shared_bytes = 48 * 1024;

// The grid of a kernel that gives every thread `each` of `count` elements.
[[nodiscard]] inline dim3 blocks_for(index count, int threads, int each = 1) {
  return dim3(static_cast<unsigned>(divide_up(count, static_cast<index>(threads) * each)));
}

// Puts kernel<<<grid, threads, shared_bytes>>>(arguments...) on the backend's stream. While planning, only loads the
// kernel, so that a recording finds it ready. A grid without blocks is no launch.
template <class Scalar, class... Parameters, class... Arguments>
void launch(Backend<Scalar>& backend, dim3 grid, int threads, index shared_bytes, void (*kernel)(Parameters...),
            Arguments&&... arguments) {
  if (shared_bytes > default_shared_bytes)
    check(cudaFuncSetAttribute(reinterpret_cast<const void*>(kernel), cudaFuncAttributeMaxDynamicSharedMemorySize,
                               static_cast<int>(shared_bytes)),
          "cudaFuncSetAttribute");
  if (backend.planning()) {
    cudaFuncAttributes attributes;
    check(cudaFuncGetAttributes(&attributes, reinterpret_cast<const void*>(kernel)), "cudaFuncGetAttributes");
    return;
  }
  if (grid.x == 0 || grid.y == 0 || grid.z == 0) return;
  cudaLaunchConfig_t config{};
  config.gridDim = grid;
  config.blockDim = dim3(static_cast<unsigned>(threads));
  config.dynamicSmemBytes = static_cast<std::size_t>(shared_bytes);
  config.stream = backend.stream();
  check(cudaLaunchKernelEx(&config, kernel, static_cast<Parameters>(std::forward<Arguments>(arguments))...),
        "cudaLaunchKernelEx");
}

namespace detail {

inline constexpr int noise_threads = 256, noise_each = 64;

// Uniform in (-1, 1). Two neighbours are also a float within these bounds.
template <class Element>
__global__ void noise_kernel(index count, Element* values) {
  const index first = static_cast<index>(blockIdx.x) * noise_threads * noise_each + threadIdx.x;
  for (index i = first; i < first + noise_threads * noise_each && i < count; i += noise_threads) {
    auto bits = static_cast<std::uint32_t>(i) * 0x9E3779B9u;
    bits = (bits ^ (bits >> 16)) * 0x21F0AAADu;
    bits = (bits ^ (bits >> 15)) * 0x735A2D97u;
    bits ^= bits >> 15;
    values[i] = static_cast<Element>(static_cast<float>(bits >> 24) * 0x1p-7f - 1 + 0x1p-8f);
  }
}

}  // namespace detail

// Fills the arena, of which nothing is taken, with values of the size of activations, as bf16 and as float.
template <class Scalar>
void fill_with_noise(Backend<Scalar>& backend) {
  const typename Backend<Scalar>::Arena::Frame frame(backend.arena());
  const index count = backend.arena().peak_bytes() / static_cast<index>(sizeof(bf16));
  bf16* const values = backend.arena().template take<bf16>(count);
  launch(backend, blocks_for(count, detail::noise_threads, detail::noise_each), detail::noise_threads, 0,
         detail::noise_kernel<bf16>, count, values);
}

}  // namespace cuda
}  // namespace TESSERA_ABI
}  // namespace tessera
