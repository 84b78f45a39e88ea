// The emulated device: threads, memory, streams and graphs, and the functions of CUDA's runtime that the library calls.
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <deque>
#include <future>
#include <map>
#include <memory>
#include <random>
#include <thread>
#include <vector>

#include "emulation.hpp"
#include "tessera/core/abi.hpp"

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#endif

namespace tessera {
inline namespace TESSERA_ABI {
namespace cuda {
alignas(128) std::byte tessera_shared_memory[232448];  // compute capability 9.0 gives a block 227 KiB
}  // namespace cuda
}  // namespace TESSERA_ABI
}  // namespace tessera

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

namespace {

// Pieces of work that are done one after the other, each when it gives true.
using Steps = std::deque<Step>;

// Whether an event's recording has been reached; those of a graph are of one replay.
struct Mark {
  bool reached = false;
};
using Marks = std::vector<std::shared_ptr<Mark>>;

// What capturing made of streams: for each the makers of its steps, and how many marks they share. The first is the one
// that capturing began on.
struct Graph {
  std::vector<std::vector<std::function<Step(const Marks&)>>> branches;
  std::size_t marks = 0;
};

struct Stream;

struct Capture {
  Graph graph;
  std::vector<Stream*> streams;     // of the branches
  std::vector<std::size_t> joined;  // how much of each branch others wait for
};

struct Stream {
  std::thread::id owner = std::this_thread::get_id();
  Steps steps;
  std::shared_ptr<Capture> capture;
  std::size_t branch = 0;

  void add(std::function<Step(const Marks&)> make) const { capture->graph.branches[branch].push_back(std::move(make)); }
};

struct Event {
  std::shared_ptr<Mark> mark;        // null if it was never recorded
  std::shared_ptr<Capture> capture;  // of the recording, which then stands at `position` of `branch`
  std::size_t number = 0, branch = 0, position = 0;
};

std::recursive_mutex mutex;
std::vector<Stream*> streams;
std::map<const void*, std::size_t> pinned;  // bytes
thread_local bool capturing_here = false, relaxed = false;

Stream& stream_of(cudaStream_t handle) {
  static Stream standard;
  return handle == nullptr ? standard : *reinterpret_cast<Stream*>(handle);
}

bool advance(Steps& steps) {
  if (steps.empty() || !steps.front()()) return false;
  steps.pop_front();
  return true;
}

// Works on the queues, in the machine's order, until the wanted one is empty or nothing can go on. Gives whether it is.
bool drive(const std::vector<Steps*>& queues, std::size_t wanted) {
  const auto others = [&] {
    for (std::size_t i = 0; i < queues.size(); ++i)
      if (i != wanted && advance(*queues[i])) return true;
    return false;
  };
  Steps& first = *queues[wanted];
  switch (machine.order) {
    case Order::submitted:
      while (advance(first) || others()) {
      }
      break;
    case Order::others_last:
      while (!first.empty() && (advance(first) || others())) {
      }
      break;
    case Order::others_first:
      while (others() || advance(first)) {
      }
  }
  return first.empty();
}

bool drive(Stream& stream) {
  if (stream.steps.empty() && machine.order != Order::submitted) return true;
  std::vector<Steps*> queues{&stream.steps};
  for (Stream* const other : streams)
    if (other != &stream && !other->steps.empty()) queues.push_back(&other->steps);
  const DeviceAccess access;
  return drive(queues, 0);
}

cudaError_t finish(Stream& stream) {
  for (;;) {
    {
      const std::lock_guard lock(mutex);
      if (stream.capture) return cudaErrorStreamCaptureUnsupported;
      if (machine.sticky != cudaSuccess || drive(stream)) return machine.sticky;
    }
    std::this_thread::sleep_for(std::chrono::microseconds(20));
  }
}

// Threads stand for processes: waits for the streams that the calling one made.
cudaError_t finish_all() {
  std::vector<Stream*> mine;
  {
    const std::lock_guard lock(mutex);
    ++machine.waits;
    if (capturing_here) return cudaErrorStreamCaptureUnsupported;
    for (Stream* const stream : streams)
      if (stream->owner == std::this_thread::get_id()) mine.push_back(stream);
  }
  for (Stream* const stream : mine)
    if (const cudaError_t status = finish(*stream); status != cudaSuccess) return status;
  return machine.sticky;
}

// Of one replay: the steps of the graph's branches.
Step replay(const std::shared_ptr<const Graph>& graph) {
  auto branches = std::make_shared<std::vector<Steps>>();
  Marks marks;
  for (std::size_t i = 0; i < graph->marks; ++i) marks.push_back(std::make_shared<Mark>());
  for (const auto& makers : graph->branches) {
    branches->emplace_back();
    for (const auto& make : makers) branches->back().push_back(make(marks));
  }
  return [branches] {
    std::vector<Steps*> queues;
    for (Steps& steps : *branches) queues.push_back(&steps);
    return drive(queues, 0);
  };
}

Step waiting_for(const std::shared_ptr<Mark>& mark) {
  return [mark] { return mark->reached; };
}
Step reaching(const std::shared_ptr<Mark>& mark) {
  return [mark] { return mark->reached = true; };
}

void queue(Stream& stream, Step step) {
  stream.steps.push_back(std::move(step));
  if (machine.order == Order::submitted) drive(stream);
}

void join_capture(Stream& stream, const std::shared_ptr<Capture>& capture) {
  stream.capture = capture;
  stream.branch = capture->streams.size();
  capture->streams.push_back(&stream);
  capture->graph.branches.emplace_back();
  capture->joined.push_back(0);
}

bool is_pinned(const void* data) {
  const std::lock_guard lock(mutex);
  const auto after = pinned.upper_bound(data);
  if (after == pinned.begin()) return false;
  const auto& [start, bytes] = *std::prev(after);
  return static_cast<const char*>(data) < static_cast<const char*>(start) + bytes;
}

// What the runtime refuses to a thread that captures.
bool forbidden() {
  return capturing_here && !relaxed;
}

}  // namespace

std::recursive_mutex& lock() {
  return mutex;
}

cudaError_t enqueue(cudaStream_t handle, std::function<Step()> make) {
  const std::lock_guard lock(mutex);
  Stream& stream = stream_of(handle);
  if (stream.capture)
    stream.add([make = std::move(make)](const Marks&) { return make(); });
  else
    queue(stream, make());
  return cudaSuccess;
}

cudaError_t submit(cudaStream_t stream, std::function<void()> work) {
  {
    const std::lock_guard lock(mutex);
    ++machine.launches;
  }
  return enqueue(stream, [work = std::move(work)]() -> Step {
    return [work] {
      work();
      return true;
    };
  });
}

bool on_device(const void* data, std::size_t bytes) {
  const std::lock_guard lock(mutex);
  const auto after = allocations.upper_bound(data);
  if (after == allocations.begin()) return false;
  const auto& [start, allocation] = *std::prev(after);
  return static_cast<const char*>(data) + bytes <= static_cast<const char*>(start) + allocation.bytes;
}

bool capturing(cudaStream_t stream) {
  const std::lock_guard lock(mutex);
  return stream_of(stream).capture != nullptr;
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

using emulation::DeviceAccess, emulation::Event, emulation::Graph, emulation::Order, emulation::Step;

extern "C" {

cudaError_t cudaMalloc(void** data, std::size_t bytes) {
  const std::lock_guard lock(emulation::mutex);
  if (emulation::forbidden()) return cudaErrorStreamCaptureUnsupported;
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
  if (emulation::capturing_here) return cudaErrorStreamCaptureUnsupported;
  static_cast<void>(emulation::finish_all());
  const std::lock_guard lock(emulation::mutex);
  const auto found = emulation::allocations.find(data);
  if (found == emulation::allocations.end()) return cudaErrorInvalidValue;
  const auto [pages, length, bytes] = found->second;
  emulation::device_used -= bytes;
  munmap(pages, length + static_cast<std::size_t>(sysconf(_SC_PAGESIZE)));
  emulation::allocations.erase(found);
  return cudaSuccess;
}

cudaError_t cudaMallocHost(void** data, std::size_t bytes) {
  const std::lock_guard lock(emulation::mutex);
  if (emulation::forbidden()) return cudaErrorStreamCaptureUnsupported;
  *data = std::malloc(bytes);
  emulation::pinned[*data] = bytes;
  return *data == nullptr ? cudaErrorMemoryAllocation : cudaSuccess;
}
cudaError_t cudaFreeHost(void* data) {
  const std::lock_guard lock(emulation::mutex);
  emulation::pinned.erase(data);
  std::free(data);
  return cudaSuccess;
}

cudaError_t cudaMemGetInfo(std::size_t* free, std::size_t* total) {
  *total = emulation::machine.memory;
  *free = emulation::machine.memory - emulation::device_used;
  return cudaSuccess;
}

cudaError_t cudaMemset(void* data, int value, std::size_t bytes) {
  const std::lock_guard lock(emulation::mutex);
  const DeviceAccess access;
  std::memset(data, value, bytes);
  return cudaSuccess;
}
cudaError_t cudaMemcpy(void* to, const void* from, std::size_t bytes, cudaMemcpyKind) {
  const std::lock_guard lock(emulation::mutex);
  const DeviceAccess access;
  std::memmove(to, from, bytes);
  return cudaSuccess;
}
cudaError_t cudaMemsetAsync(void* data, int value, std::size_t bytes, cudaStream_t stream) {
  return emulation::submit(stream, [=] { std::memset(data, value, bytes); });
}
cudaError_t cudaMemcpyAsync(void* to, const void* from, std::size_t bytes, cudaMemcpyKind kind, cudaStream_t stream) {
  if (kind == cudaMemcpyHostToDevice && !emulation::is_pinned(from) && !emulation::capturing_here) {
    const auto* const begin = static_cast<const unsigned char*>(from);
    const std::vector<unsigned char> now(begin, begin + bytes);  // the caller may reuse what is not pinned
    return emulation::submit(stream, [=] { std::memcpy(to, now.data(), bytes); });
  }
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
  const std::lock_guard lock(emulation::mutex);
  emulation::streams.push_back(new emulation::Stream);
  *stream = reinterpret_cast<cudaStream_t>(emulation::streams.back());
  return cudaSuccess;
}
cudaError_t cudaStreamDestroy(cudaStream_t handle) {
  emulation::Stream& stream = emulation::stream_of(handle);
  {
    const std::lock_guard lock(emulation::mutex);
    emulation::drive(stream);
    std::erase(emulation::streams, &stream);
  }
  delete &stream;  // without the lock: a function of the host may be waiting for other threads
  return cudaSuccess;
}
cudaError_t cudaStreamSynchronize(cudaStream_t handle) {
  {
    const std::lock_guard lock(emulation::mutex);
    ++emulation::machine.waits;
  }
  return emulation::finish(emulation::stream_of(handle));
}
cudaError_t cudaStreamQuery(cudaStream_t handle) {
  const std::lock_guard lock(emulation::mutex);
  emulation::Stream& stream = emulation::stream_of(handle);
  if (stream.capture) return cudaErrorStreamCaptureUnsupported;
  if (emulation::machine.sticky != cudaSuccess) return emulation::machine.sticky;
  return emulation::drive(stream) ? cudaSuccess : cudaErrorNotReady;
}
cudaError_t cudaDeviceSynchronize() {
  return emulation::finish_all();
}
cudaError_t cudaLaunchHostFunc(cudaStream_t stream, cudaHostFn_t function, void* data) {
  return emulation::enqueue(stream, [=]() -> Step {
    auto running = std::make_shared<std::future<void>>();
    return [=] {
      if (!running->valid()) *running = std::async(std::launch::async, function, data);
      return running->wait_for(std::chrono::seconds(0)) == std::future_status::ready;
    };
  });
}

cudaError_t cudaEventCreateWithFlags(cudaEvent_t* event, unsigned) {
  *event = reinterpret_cast<cudaEvent_t>(new Event);
  return cudaSuccess;
}
cudaError_t cudaEventCreate(cudaEvent_t* event) {
  return cudaEventCreateWithFlags(event, 0);
}
cudaError_t cudaEventDestroy(cudaEvent_t event) {
  delete reinterpret_cast<Event*>(event);
  return cudaSuccess;
}
cudaError_t cudaEventRecord(cudaEvent_t handle, cudaStream_t stream_handle) {
  const std::lock_guard lock(emulation::mutex);
  Event& event = *reinterpret_cast<Event*>(handle);
  emulation::Stream& stream = emulation::stream_of(stream_handle);
  event.capture = stream.capture;
  event.mark = std::make_shared<emulation::Mark>();
  if (!stream.capture) {
    emulation::queue(stream, emulation::reaching(event.mark));
    return cudaSuccess;
  }
  event.number = stream.capture->graph.marks++;
  event.branch = stream.branch;
  stream.add([number = event.number](const emulation::Marks& marks) { return emulation::reaching(marks[number]); });
  event.position = stream.capture->graph.branches[stream.branch].size();
  return cudaSuccess;
}
cudaError_t cudaStreamWaitEvent(cudaStream_t stream_handle, cudaEvent_t handle, unsigned) {
  const std::lock_guard lock(emulation::mutex);
  const Event& event = *reinterpret_cast<Event*>(handle);
  emulation::Stream& stream = emulation::stream_of(stream_handle);
  if (!event.mark) return cudaSuccess;
  if (!event.capture && stream.capture) return cudaErrorStreamCaptureIsolation;
  if (!event.capture) {
    emulation::queue(stream, emulation::waiting_for(event.mark));
    return cudaSuccess;
  }
  if (event.capture->streams.empty()) return cudaErrorCapturedEvent;
  if (!stream.capture) emulation::join_capture(stream, event.capture);
  if (stream.capture != event.capture) return cudaErrorStreamCaptureMerge;
  if (stream.branch != event.branch)
    event.capture->joined[event.branch] = (std::max)(event.capture->joined[event.branch], event.position);
  stream.add([number = event.number](const emulation::Marks& marks) { return emulation::waiting_for(marks[number]); });
  return cudaSuccess;
}
cudaError_t cudaEventQuery(cudaEvent_t handle) {
  const std::lock_guard lock(emulation::mutex);
  const Event& event = *reinterpret_cast<Event*>(handle);
  if (event.capture) return cudaErrorCapturedEvent;
  if (!event.mark || event.mark->reached) return cudaSuccess;
  for (emulation::Stream* const stream : emulation::streams)
    if (!event.mark->reached) emulation::drive(*stream);
  return event.mark->reached ? cudaSuccess : cudaErrorNotReady;
}
cudaError_t cudaEventSynchronize(cudaEvent_t event) {
  for (;;) {
    const cudaError_t status = cudaEventQuery(event);
    if (status != cudaErrorNotReady) return status;
    std::this_thread::sleep_for(std::chrono::microseconds(20));
  }
}
cudaError_t cudaEventElapsedTime(float* milliseconds, cudaEvent_t, cudaEvent_t) {
  const std::lock_guard lock(emulation::mutex);
  static std::mt19937 random;
  static unsigned seed = 0;
  if (std::exchange(seed, emulation::machine.times) != emulation::machine.times) random.seed(seed);
  *milliseconds = std::uniform_real_distribution<float>(1, 2)(random);
  return cudaSuccess;
}

cudaError_t cudaStreamBeginCapture(cudaStream_t handle, cudaStreamCaptureMode mode) {
  const std::lock_guard lock(emulation::mutex);
  emulation::Stream& stream = emulation::stream_of(handle);
  if (mode != cudaStreamCaptureModeThreadLocal || stream.capture) return cudaErrorInvalidValue;
  emulation::join_capture(stream, std::make_shared<emulation::Capture>());
  emulation::capturing_here = true;
  return cudaSuccess;
}
cudaError_t cudaThreadExchangeStreamCaptureMode(cudaStreamCaptureMode* mode) {
  const bool was_relaxed = std::exchange(emulation::relaxed, *mode == cudaStreamCaptureModeRelaxed);
  *mode = was_relaxed ? cudaStreamCaptureModeRelaxed : cudaStreamCaptureModeGlobal;
  return cudaSuccess;
}
cudaError_t cudaStreamEndCapture(cudaStream_t handle, cudaGraph_t* graph) {
  const std::lock_guard lock(emulation::mutex);
  *graph = nullptr;
  const std::shared_ptr<emulation::Capture> capture = emulation::stream_of(handle).capture;
  if (!capture || capture->streams[0] != &emulation::stream_of(handle)) return cudaErrorIllegalState;
  emulation::capturing_here = false;
  for (emulation::Stream* const stream : capture->streams) stream->capture.reset();
  capture->streams.clear();
  for (std::size_t branch = 1; branch < capture->joined.size(); ++branch)
    if (capture->joined[branch] != capture->graph.branches[branch].size()) return cudaErrorStreamCaptureUnjoined;
  *graph = reinterpret_cast<cudaGraph_t>(new Graph(std::move(capture->graph)));
  return cudaSuccess;
}
cudaError_t cudaGraphInstantiate(cudaGraphExec_t* executable, cudaGraph_t graph, unsigned long long) {
  *executable =
      reinterpret_cast<cudaGraphExec_t>(new std::shared_ptr<const Graph>(new Graph(*reinterpret_cast<Graph*>(graph))));
  return cudaSuccess;
}
cudaError_t cudaGraphDestroy(cudaGraph_t graph) {
  delete reinterpret_cast<Graph*>(graph);
  return cudaSuccess;
}
cudaError_t cudaGraphExecDestroy(cudaGraphExec_t graph) {
  delete reinterpret_cast<std::shared_ptr<const Graph>*>(graph);
  return cudaSuccess;
}
cudaError_t cudaGraphLaunch(cudaGraphExec_t graph, cudaStream_t handle) {
  const std::lock_guard lock(emulation::mutex);
  emulation::Stream& stream = emulation::stream_of(handle);
  if (stream.capture) return cudaErrorStreamCaptureUnsupported;
  emulation::queue(stream, emulation::replay(*reinterpret_cast<std::shared_ptr<const Graph>*>(graph)));
  return cudaSuccess;
}

}  // extern "C"
