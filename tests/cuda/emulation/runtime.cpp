// The emulated device: threads, memory, streams and graphs, and the functions of CUDA's runtime that the library calls.
#include <sys/mman.h>
#include <unistd.h>

#include <array>
#include <cstdio>
#include <cstdlib>
#include <map>
#include <memory>
#include <vector>

#include "emulation.hpp"
#include "tessera/core/abi.hpp"

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#endif

namespace tessera::inline TESSERA_ABI::cuda {
alignas(128) std::byte tessera_shared_memory[232448];  // compute capability 9.0 gives a block 227 KiB
}

emulation::Index threadIdx, blockIdx, blockDim, gridDim;

namespace emulation {

Machine machine;

void stop(const char* what) {
  std::fprintf(stderr, "emulated device: block (%u, %u, %u), thread %u: %s\n", blockIdx.x, blockIdx.y, blockIdx.z,
               threadIdx.x, what);
  std::abort();
}

namespace {

#if !defined(__x86_64__)
#error "the emulated device switches between threads by a few lines of x86-64 assembler"
#endif
// Saves what a call preserves on this stack, then takes the other stack.
extern "C" void emulation_switch(void** save, void* take);
asm(R"(
.text
.globl emulation_switch
.type emulation_switch, @function
emulation_switch:
  pushq %rbp
  pushq %rbx
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  movq %rsp, (%rdi)
  movq %rsi, %rsp
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbx
  popq %rbp
  ret
)");

enum class State { ready, at_warp_barrier, at_block_barrier, ended };

struct Copy {
  void* to;
  const void* from;
  int group;
};

struct Thread {
  static constexpr std::size_t stack_size = 64 * 1024;
  std::unique_ptr<unsigned char[]> stack = std::make_unique<unsigned char[]>(stack_size);
  void* pointer = nullptr;
  State state = State::ended;
  std::vector<Copy> copies;
  int group = 0;
};

std::vector<Thread> threads;
void* scheduler = nullptr;
#if defined(__SANITIZE_ADDRESS__)
const void* scheduler_stack = nullptr;
std::size_t scheduler_stack_size = 0;
#endif
unsigned current = 0;
const std::function<void()>* running = nullptr;
unsigned char exchanged[32][2][32][64];  // of each warp, twice: the next exchange may start while this one is read
std::vector<int> exchanges;              // of each thread

void switch_to_scheduler() {
#if defined(__SANITIZE_ADDRESS__)
  void* fake = nullptr;
  __sanitizer_start_switch_fiber(threads[current].state == State::ended ? nullptr : &fake, scheduler_stack,
                                 scheduler_stack_size);
#endif
  emulation_switch(&threads[current].pointer, scheduler);
#if defined(__SANITIZE_ADDRESS__)
  __sanitizer_finish_switch_fiber(fake, nullptr, nullptr);
#endif
}

void thread_main() {
#if defined(__SANITIZE_ADDRESS__)
  __sanitizer_finish_switch_fiber(nullptr, &scheduler_stack, &scheduler_stack_size);
#endif
  (*running)();
  for (const Copy& copy : threads[current].copies)
    if (copy.from == nullptr || copy.to != nullptr) stop("ended with copies under way");
  threads[current].state = State::ended;
  switch_to_scheduler();
  std::abort();
}

void start(Thread& thread) {
#if defined(__SANITIZE_ADDRESS__)
  ASAN_UNPOISON_MEMORY_REGION(thread.stack.get(), Thread::stack_size);  // frames of a thread that has ended
#endif
  void** top = reinterpret_cast<void**>(thread.stack.get() + Thread::stack_size);
  *--top = nullptr;
  *--top = reinterpret_cast<void*>(&thread_main);
  for (int i = 0; i < 6; ++i) *--top = nullptr;
  thread.pointer = top;
  thread.state = State::ready;
  thread.copies.clear();
  thread.group = 0;
}

void resume(unsigned number) {
  current = number;
  threadIdx = {number, 0, 0};
#if defined(__SANITIZE_ADDRESS__)
  void* fake = nullptr;
  __sanitizer_start_switch_fiber(&fake, threads[number].stack.get(), Thread::stack_size);
#endif
  emulation_switch(&scheduler, threads[number].pointer);
#if defined(__SANITIZE_ADDRESS__)
  __sanitizer_finish_switch_fiber(fake, nullptr, nullptr);
#endif
}

// Sets the threads [first, last) going again if all of them that have not ended wait at a barrier of this kind.
bool release(unsigned first, unsigned last, State barrier) {
  bool any = false;
  for (unsigned i = first; i < last; ++i) {
    if (threads[i].state == State::ended) continue;
    if (threads[i].state != barrier) return false;
    any = true;
  }
  if (any)
    for (unsigned i = first; i < last; ++i)
      if (threads[i].state == barrier) threads[i].state = State::ready;
  return any;
}

void run_block(unsigned count) {
  if (threads.size() < count) threads.resize(count);
  exchanges.assign(count, 0);
  for (unsigned i = 0; i < count; ++i) start(threads[i]);
  for (unsigned round = 0;; ++round) {
    bool progress = false;
    // An odd multiplier permutes the threads of a power of two; others are passed over.
    unsigned power = 1;
    while (power < count) power *= 2;
    const unsigned factor = std::array{1u, 2 * power - 1, 5u, 13u}[round % 4];
    for (unsigned k = 0; k < power; ++k) {
      const unsigned i = (k * factor + round * 7) % power;
      if (i >= count || threads[i].state != State::ready) continue;
      resume(i);
      progress = true;
    }
    bool ended = true;
    for (unsigned i = 0; i < count; ++i) ended = ended && threads[i].state == State::ended;
    if (ended) return;
    for (unsigned first = 0; first < count; first += 32)
      progress = release(first, first + 32 < count ? first + 32 : count, State::at_warp_barrier) || progress;
    progress = release(0, count, State::at_block_barrier) || progress;
    if (!progress) stop("not all threads reach the same barrier");
  }
}

}  // namespace

void block_barrier() {
  threads[current].state = State::at_block_barrier;
  switch_to_scheduler();
}

void warp_barrier() {
  threads[current].state = State::at_warp_barrier;
  switch_to_scheduler();
}

const unsigned char* exchange(const void* value, std::size_t size) {
  const unsigned lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  if (blockDim.x % 32 != 0) stop("a warp-wide operation in a warp of fewer than 32 threads");
  auto& room = exchanged[warp][exchanges[current]++ % 2];
  std::memcpy(room[lane], value, size);
  warp_barrier();
  for (unsigned i = warp * 32; lane == 0 && i < warp * 32 + 32; ++i)
    if (exchanges[i] < exchanges[current]) stop("a warp-wide operation that not all lanes take part in");
  return room[0];
}

void start_copy(void* to, const void* from) {
  threads[current].copies.push_back({to, from, threads[current].group});
}

void close_copies() {
  ++threads[current].group;
}

void wait_for_copies(int pending) {
  Thread& thread = threads[current];
  std::vector<Copy> left;
  for (const Copy& copy : thread.copies) {
    if (copy.group >= thread.group - pending)
      left.push_back(copy);
    else if (copy.from == nullptr)
      std::memset(copy.to, 0, 16);
    else
      std::memcpy(copy.to, copy.from, 16);
  }
  thread.copies = std::move(left);
}

namespace {

// Device memory ends at a page that nobody may touch, and may itself be touched while a kernel or a copy runs.
struct Allocation {
  void* pages;
  std::size_t length, bytes;
};
std::map<const void*, Allocation> allocations;

void protect(int access) {
  for (auto& [data, allocation] : allocations) mprotect(allocation.pages, allocation.length, access);
}

struct DeviceAccess {
  DeviceAccess() { protect(PROT_READ | PROT_WRITE); }
  ~DeviceAccess() { protect(PROT_NONE); }
};

std::size_t device_used = 0;

bool capturing = false;
std::vector<std::function<void()>>* recorded = nullptr;

}  // namespace

void run(dim3 grid, dim3 block, std::size_t shared_bytes, const std::function<void()>& kernel) {
  auto& shared = tessera::cuda::tessera_shared_memory;
  std::memset(shared, 0xFF, sizeof(shared));
#if defined(__SANITIZE_ADDRESS__)
  ASAN_POISON_MEMORY_REGION(shared + shared_bytes, sizeof(shared) - shared_bytes);
#else
  static_cast<void>(shared_bytes);
#endif
  running = &kernel;
  blockDim = {block.x, block.y, block.z};
  gridDim = {grid.x, grid.y, grid.z};
  for (unsigned z = 0; z < grid.z; ++z)
    for (unsigned y = 0; y < grid.y; ++y)
      for (unsigned x = 0; x < grid.x; ++x) {
        blockIdx = {x, y, z};
        run_block(block.x);
      }
#if defined(__SANITIZE_ADDRESS__)
  ASAN_UNPOISON_MEMORY_REGION(shared, sizeof(shared));
#endif
}

cudaError_t submit(cudaStream_t, std::function<void()> work) {
  ++machine.launches;
  if (capturing) {
    recorded->push_back(std::move(work));
    return cudaSuccess;
  }
  const DeviceAccess access;
  work();
  return cudaSuccess;
}

std::map<const void*, int> largest_shared;

cudaError_t check_launch(const cudaLaunchConfig_t& config, const void* kernel) {
  const int allowed = largest_shared.contains(kernel) ? largest_shared[kernel] : 48 * 1024;
  if (static_cast<int>(config.dynamicSmemBytes) > allowed) return cudaErrorInvalidValue;
  if (config.blockDim.x == 0 || config.blockDim.x > 1024 || config.blockDim.y != 1 || config.blockDim.z != 1)
    return cudaErrorInvalidConfiguration;
  if (config.gridDim.x == 0 || config.gridDim.y == 0 || config.gridDim.z == 0 || config.gridDim.y > 65535 ||
      config.gridDim.z > 65535)
    return cudaErrorInvalidConfiguration;
  return cudaSuccess;
}

}  // namespace emulation

using emulation::DeviceAccess;

extern "C" {

cudaError_t cudaMalloc(void** data, std::size_t bytes) {
  ++emulation::machine.allocations;
  if (emulation::device_used + bytes > emulation::machine.memory) return cudaErrorMemoryAllocation;
  const std::size_t page = static_cast<std::size_t>(sysconf(_SC_PAGESIZE));
  const std::size_t length = (bytes + page - 1) / page * page;
  auto* const pages = static_cast<unsigned char*>(
      mmap(nullptr, length + page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
  if (pages == MAP_FAILED) return cudaErrorMemoryAllocation;
  mprotect(pages + length, page, PROT_NONE);
  unsigned char* const start = pages + (length - bytes) / 256 * 256;
  std::memset(start, 0xFF, bytes);
  mprotect(pages, length, PROT_NONE);
  emulation::allocations[start] = {pages, length, bytes};
  emulation::device_used += bytes;
  *data = start;
  return cudaSuccess;
}

cudaError_t cudaFree(void* data) {
  if (data == nullptr) return cudaSuccess;
  const auto found = emulation::allocations.find(data);
  if (found == emulation::allocations.end()) return cudaErrorInvalidValue;
  const auto [pages, length, bytes] = found->second;
  emulation::device_used -= bytes;
  munmap(pages, length + static_cast<std::size_t>(sysconf(_SC_PAGESIZE)));
  emulation::allocations.erase(found);
  return cudaSuccess;
}

cudaError_t cudaMallocHost(void** data, std::size_t bytes) {
  *data = std::malloc(bytes);
  return *data == nullptr ? cudaErrorMemoryAllocation : cudaSuccess;
}
cudaError_t cudaFreeHost(void* data) {
  std::free(data);
  return cudaSuccess;
}

cudaError_t cudaMemGetInfo(std::size_t* free, std::size_t* total) {
  *total = emulation::machine.memory;
  *free = emulation::machine.memory - emulation::device_used;
  return cudaSuccess;
}

cudaError_t cudaMemset(void* data, int value, std::size_t bytes) {
  const DeviceAccess access;
  std::memset(data, value, bytes);
  return cudaSuccess;
}
cudaError_t cudaMemcpy(void* to, const void* from, std::size_t bytes, cudaMemcpyKind) {
  const DeviceAccess access;
  std::memmove(to, from, bytes);
  return cudaSuccess;
}
cudaError_t cudaMemsetAsync(void* data, int value, std::size_t bytes, cudaStream_t stream) {
  return emulation::submit(stream, [=] { std::memset(data, value, bytes); });
}
cudaError_t cudaMemcpyAsync(void* to, const void* from, std::size_t bytes, cudaMemcpyKind, cudaStream_t stream) {
  return emulation::submit(stream, [=] { std::memmove(to, from, bytes); });
}

cudaError_t cudaGetDeviceCount(int* count) {
  *count = emulation::machine.devices;
  return emulation::machine.presence;
}
cudaError_t cudaGetDeviceProperties(cudaDeviceProp* properties, int) {
  *properties = {};
  std::strcpy(properties->name, "emulated device");
  return cudaSuccess;
}
cudaError_t cudaSetDevice(int) {
  return cudaSuccess;
}
cudaError_t cudaDriverGetVersion(int* version) {
  *version = emulation::machine.driver;
  return cudaSuccess;
}
cudaError_t cudaRuntimeGetVersion(int* version) {
  *version = CUDART_VERSION;
  return cudaSuccess;
}
cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr attribute, int) {
  switch (attribute) {
    case cudaDevAttrComputeCapabilityMajor:
      *value = emulation::machine.capability / 10;
      break;
    case cudaDevAttrComputeCapabilityMinor:
      *value = emulation::machine.capability % 10;
      break;
    case cudaDevAttrMultiProcessorCount:
      *value = 4;
      break;
    case cudaDevAttrMaxSharedMemoryPerBlockOptin:
      *value = 227 * 1024;
      break;
    default:
      return cudaErrorInvalidValue;
  }
  return cudaSuccess;
}
cudaError_t cudaGetLastError() {
  return cudaSuccess;
}
const char* cudaGetErrorString(cudaError_t) {
  return "an error of the emulated device";
}
const char* cudaGetErrorName(cudaError_t error) {
  return error == cudaErrorIllegalAddress ? "cudaErrorIllegalAddress" : "cudaError";
}

cudaError_t cudaFuncSetAttribute(const void* kernel, cudaFuncAttribute attribute, int value) {
  if (attribute != cudaFuncAttributeMaxDynamicSharedMemorySize || value > 227 * 1024) return cudaErrorInvalidValue;
  emulation::largest_shared[kernel] = value;
  return cudaSuccess;
}
cudaError_t cudaFuncGetAttributes(cudaFuncAttributes* attributes, const void*) {
  *attributes = {};
  return cudaSuccess;
}

cudaError_t cudaStreamCreateWithFlags(cudaStream_t* stream, unsigned) {
  *stream = reinterpret_cast<cudaStream_t>(new int);
  return cudaSuccess;
}
cudaError_t cudaStreamDestroy(cudaStream_t stream) {
  delete reinterpret_cast<int*>(stream);
  return cudaSuccess;
}
cudaError_t cudaStreamSynchronize(cudaStream_t) {
  ++emulation::machine.waits;
  return emulation::capturing ? cudaErrorStreamCaptureUnsupported : emulation::machine.sticky;
}
cudaError_t cudaDeviceSynchronize() {
  return cudaStreamSynchronize(nullptr);
}
cudaError_t cudaStreamWaitEvent(cudaStream_t, cudaEvent_t, unsigned) {
  return cudaSuccess;
}
cudaError_t cudaEventCreateWithFlags(cudaEvent_t* event, unsigned) {
  *event = reinterpret_cast<cudaEvent_t>(new int);
  return cudaSuccess;
}
cudaError_t cudaEventCreate(cudaEvent_t* event) {
  return cudaEventCreateWithFlags(event, 0);
}
cudaError_t cudaEventDestroy(cudaEvent_t event) {
  delete reinterpret_cast<int*>(event);
  return cudaSuccess;
}
cudaError_t cudaEventRecord(cudaEvent_t, cudaStream_t) {
  return cudaSuccess;
}
cudaError_t cudaEventSynchronize(cudaEvent_t) {
  return cudaSuccess;
}
cudaError_t cudaEventElapsedTime(float* milliseconds, cudaEvent_t, cudaEvent_t) {
  *milliseconds = 1;
  return cudaSuccess;
}

cudaError_t cudaStreamBeginCapture(cudaStream_t, cudaStreamCaptureMode) {
  emulation::capturing = true;
  emulation::recorded = new std::vector<std::function<void()>>;
  return cudaSuccess;
}
cudaError_t cudaStreamEndCapture(cudaStream_t, cudaGraph_t* graph) {
  emulation::capturing = false;
  *graph = reinterpret_cast<cudaGraph_t>(emulation::recorded);
  return cudaSuccess;
}
cudaError_t cudaGraphInstantiate(cudaGraphExec_t* executable, cudaGraph_t graph, unsigned long long) {
  *executable = reinterpret_cast<cudaGraphExec_t>(
      new std::vector<std::function<void()>>(*reinterpret_cast<std::vector<std::function<void()>>*>(graph)));
  return cudaSuccess;
}
cudaError_t cudaGraphDestroy(cudaGraph_t graph) {
  delete reinterpret_cast<std::vector<std::function<void()>>*>(graph);
  return cudaSuccess;
}
cudaError_t cudaGraphExecDestroy(cudaGraphExec_t graph) {
  delete reinterpret_cast<std::vector<std::function<void()>>*>(graph);
  return cudaSuccess;
}
cudaError_t cudaGraphLaunch(cudaGraphExec_t graph, cudaStream_t) {
  const DeviceAccess access;
  for (const auto& work : *reinterpret_cast<std::vector<std::function<void()>>*>(graph)) work();
  return cudaSuccess;
}

}  // extern "C"
