// NCCL on the emulated device: what the library asks of it. Ranks are threads; a call is done when the streams of all
// ranks have reached it, by whichever comes last.
//
// As strict as NCCL may be: communicators must not block; what is asked for is under way, or on the stream, only when
// the caller has asked twice whether it is; a communicator that was aborted or destroyed must not be used, and
// one must not be closed while a recording refers to it; NCCL_LAUNCH_ORDER_IMPLICIT must be 1 from the first call on.
// Sums are taken in the opposite order of ranks. Calls that differ between ranks never end.
#include <nccl.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "emulation.hpp"
#include "tessera/core/scalar.hpp"

namespace emulation {

namespace {

enum class Kind { all_reduce, reduce, reduce_scatter, all_gather, broadcast };

struct Transfer {
  Kind kind;
  const void* from;
  void* to;
  std::size_t count;
  ncclDataType_t type;
  int root;

  [[nodiscard]] bool matches(const Transfer& other) const {
    return kind == other.kind && count == other.count && type == other.type && root == other.root;
  }
};

// One call, or a group of them, of all ranks.
struct Meeting {
  std::vector<std::shared_ptr<const std::vector<Transfer>>> ranks;
  int arrived = 0;
  bool done = false;
};

struct World {
  explicit World(int ranks) : size(ranks) {}
  int size, joined = 0;
  std::map<long, std::shared_ptr<Meeting>> meetings;  // by number
};

std::map<std::string, std::shared_ptr<World>> worlds;
thread_local int depth = 0;
thread_local std::vector<std::pair<ncclComm_t, std::pair<cudaStream_t, Transfer>>> grouped;

std::size_t size_of(ncclDataType_t type) {
  switch (type) {
    case ncclInt8:
      return 1;
    case ncclBfloat16:
      return 2;
    case ncclInt32:
    case ncclFloat32:
      return 4;
    case ncclInt64:
    case ncclFloat64:
      return 8;
    default:
      stop("NCCL: a type that the library does not use");
  }
}

template <class Value>
void add(const void* from, void* to, std::size_t count) {
  using Sum = tessera::Accumulator<Value>;
  for (std::size_t i = 0; i < count; ++i) {
    Value a, b;
    std::memcpy(&a, static_cast<const char*>(to) + i * sizeof(Value), sizeof(Value));
    std::memcpy(&b, static_cast<const char*>(from) + i * sizeof(Value), sizeof(Value));
    a = static_cast<Value>(static_cast<Sum>(a) + static_cast<Sum>(b));
    std::memcpy(static_cast<char*>(to) + i * sizeof(Value), &a, sizeof(Value));
  }
}

void add(ncclDataType_t type, const void* from, void* to, std::size_t count) {
  switch (type) {
    case ncclInt8:
      return add<std::int8_t>(from, to, count);
    case ncclInt32:
      return add<std::int32_t>(from, to, count);
    case ncclInt64:
      return add<std::int64_t>(from, to, count);
    case ncclBfloat16:
      return add<tessera::bf16>(from, to, count);
    case ncclFloat32:
      return add<float>(from, to, count);
    default:
      return add<double>(from, to, count);
  }
}

using Bytes = std::vector<unsigned char>;

void transfer(const Meeting& meeting, std::size_t at) {
  const auto of = [&](std::size_t rank) -> const Transfer& { return (*meeting.ranks[rank])[at]; };
  const std::size_t ranks = meeting.ranks.size();
  const Transfer& first = of(0);
  const std::size_t bytes = first.count * size_of(first.type);
  const auto copy_of = [&](std::size_t rank, std::size_t length) {
    const auto* const from = static_cast<const unsigned char*>(of(rank).from);
    return Bytes(from, from + length);
  };
  const auto sum = [&](std::size_t elements) {
    const std::size_t length = elements * size_of(first.type);
    Bytes total = copy_of(ranks - 1, length);
    for (std::size_t rank = ranks - 1; rank-- > 0;) add(first.type, of(rank).from, total.data(), elements);
    return total;
  };
  switch (first.kind) {
    case Kind::all_reduce: {
      const Bytes total = sum(first.count);
      for (std::size_t rank = 0; rank < ranks; ++rank) std::memcpy(of(rank).to, total.data(), bytes);
      break;
    }
    case Kind::reduce:
      std::memcpy(of(static_cast<std::size_t>(first.root)).to, sum(first.count).data(), bytes);
      break;
    case Kind::reduce_scatter: {
      const Bytes total = sum(first.count * ranks);
      for (std::size_t rank = 0; rank < ranks; ++rank) std::memcpy(of(rank).to, total.data() + rank * bytes, bytes);
      break;
    }
    case Kind::all_gather: {
      Bytes all;
      for (std::size_t rank = 0; rank < ranks; ++rank) {
        const Bytes part = copy_of(rank, bytes);
        all.insert(all.end(), part.begin(), part.end());
      }
      for (std::size_t rank = 0; rank < ranks; ++rank) std::memcpy(of(rank).to, all.data(), all.size());
      break;
    }
    case Kind::broadcast: {
      const Bytes values = copy_of(static_cast<std::size_t>(first.root), bytes);
      for (std::size_t rank = 0; rank < ranks; ++rank) std::memcpy(of(rank).to, values.data(), bytes);
      break;
    }
  }
}

bool agree(const Meeting& meeting) {
  for (const auto& calls : meeting.ranks) {
    if (calls->size() != meeting.ranks[0]->size()) return false;
    for (std::size_t i = 0; i < calls->size(); ++i)
      if (!(*calls)[i].matches((*meeting.ranks[0])[i])) return false;
  }
  return true;
}

}  // namespace

}  // namespace emulation

struct ncclComm {
  std::shared_ptr<emulation::World> world;
  int rank;
  long calls = 0;                               // that its streams have begun
  int duplicates = 0;                           // that were asked for
  int questions = 0;                            // before what is asked for is under way
  std::deque<std::function<void()>> asked_for;  // in order
  bool gone = false, finalized = false;
  std::shared_ptr<int> recorded = std::make_shared<int>();  // owners beside this one: recorded calls

  void ask(std::function<void()> what) {
    asked_for.push_back(std::move(what));
    questions = 2;
  }
};

namespace emulation {

namespace {

// Communicators stay, so that the use of one that is gone shows.
std::vector<std::unique_ptr<ncclComm>> communicators;

ncclComm& usable(ncclComm_t communicator) {
  if (communicator == nullptr || communicator->gone) stop("NCCL: a communicator is used that is not there");
  return *communicator;
}

ncclComm_t make(const std::shared_ptr<World>& world, int rank) {
  communicators.push_back(std::make_unique<ncclComm>());
  communicators.back()->world = world;
  communicators.back()->rank = rank;
  ++world->joined;
  ++machine.communicators;
  return communicators.back().get();
}

void leave(ncclComm& communicator) {
  communicator.gone = true;
  communicator.asked_for.clear();
  --machine.communicators;
}

Step meet(ncclComm_t communicator, const std::shared_ptr<const std::vector<Transfer>>& calls) {
  auto meeting = std::make_shared<std::shared_ptr<Meeting>>();
  return [=]() -> bool {
    if (communicator->gone) return true;
    if (machine.silent_network) return false;
    World& world = *communicator->world;
    if (!*meeting) {
      std::shared_ptr<Meeting>& shared = world.meetings[communicator->calls++];
      if (!shared) shared = std::make_shared<Meeting>();
      *meeting = shared;
      shared->ranks.resize(static_cast<std::size_t>(world.size));
      shared->ranks[static_cast<std::size_t>(communicator->rank)] = calls;
      if (++shared->arrived == world.size && agree(*shared)) {
        for (std::size_t i = 0; i < calls->size(); ++i) transfer(*shared, i);
        shared->done = true;
      }
    }
    return (*meeting)->done;
  };
}

void check_environment() {
  const char* const order = std::getenv("NCCL_LAUNCH_ORDER_IMPLICIT");
  if (order == nullptr || std::strcmp(order, "1") != 0)
    stop("NCCL: NCCL_LAUNCH_ORDER_IMPLICIT is not 1: calls of several communicators could deadlock");
}

ncclResult_t begin(ncclComm_t handle, cudaStream_t stream, std::vector<Transfer> calls) {
  const std::lock_guard guard(lock());
  auto shared = std::make_shared<const std::vector<Transfer>>(std::move(calls));
  usable(handle).ask(
      [=, use = handle->recorded] { enqueue(stream, [=] { return use ? meet(handle, shared) : Step(); }); });
  return ncclInProgress;
}

ncclResult_t call(ncclComm_t handle, cudaStream_t stream, const Transfer& transfer) {
  if (depth == 0) return begin(handle, stream, {transfer});
  grouped.push_back({handle, {stream, transfer}});
  return ncclSuccess;
}

}  // namespace

}  // namespace emulation

using emulation::Kind, emulation::machine, emulation::usable;

extern "C" {

ncclResult_t ncclGetVersion(int* version) {
  *version = machine.nccl_version;
  return ncclSuccess;
}

ncclResult_t ncclGetUniqueId(ncclUniqueId* id) {
  const std::lock_guard guard(emulation::lock());
  emulation::check_environment();
  static long number = 0;
  *id = {};
  std::snprintf(id->internal, sizeof(id->internal), "world %ld", ++number);
  return ncclSuccess;
}

ncclResult_t ncclCommInitRankConfig(ncclComm_t* communicator, int size, ncclUniqueId id, int rank,
                                    ncclConfig_t* config) {
  const std::lock_guard guard(emulation::lock());
  emulation::check_environment();
  if (config->blocking != 0) emulation::stop("NCCL: a communicator that blocks");
  auto& world = emulation::worlds[id.internal];
  if (!world) world = std::make_shared<emulation::World>(size);
  if (world->size != size) return ncclInvalidUsage;
  *communicator = emulation::make(world, rank);
  return ncclInProgress;
}

ncclResult_t ncclCommSplit(ncclComm_t parent, int color, int key, ncclComm_t* communicator, ncclConfig_t* config) {
  const std::lock_guard guard(emulation::lock());
  if (config->blocking != 0 || color != 0 || key != usable(parent).rank) emulation::stop("NCCL: not a duplicate");
  auto& world = emulation::worlds[std::to_string(reinterpret_cast<std::uintptr_t>(parent->world.get())) + " " +
                                  std::to_string(parent->duplicates++)];
  if (!world) world = std::make_shared<emulation::World>(parent->world->size);
  parent->ask([=] { *communicator = emulation::make(world, key); });
  return ncclInProgress;
}

ncclResult_t ncclCommGetAsyncError(ncclComm_t communicator, ncclResult_t* state) {
  const std::lock_guard guard(emulation::lock());
  ncclComm& mine = usable(communicator);
  if (machine.failing_network) {
    *state = ncclRemoteError;
    return ncclSuccess;
  }
  if (mine.questions > 0 && --mine.questions == 0) {
    for (const auto& what : mine.asked_for) what();
    mine.asked_for.clear();
  }
  const bool ready = mine.asked_for.empty() && mine.world->joined >= mine.world->size;
  *state = ready ? ncclSuccess : ncclInProgress;
  return ncclSuccess;
}

ncclResult_t ncclCommFinalize(ncclComm_t communicator) {
  const std::lock_guard guard(emulation::lock());
  if (usable(communicator).recorded.use_count() > 1)
    emulation::stop("NCCL: a communicator is closed that a recording refers to: it would wait for ever");
  communicator->ask([=] { communicator->finalized = true; });
  return ncclInProgress;
}
ncclResult_t ncclCommDestroy(ncclComm_t communicator) {
  const std::lock_guard guard(emulation::lock());
  if (!usable(communicator).finalized) emulation::stop("NCCL: a communicator is destroyed that was not finalized");
  emulation::leave(*communicator);
  return ncclSuccess;
}
ncclResult_t ncclCommAbort(ncclComm_t communicator) {
  const std::lock_guard guard(emulation::lock());
  emulation::leave(usable(communicator));
  ++machine.aborted;
  return ncclInProgress;
}

const char* ncclGetErrorString(ncclResult_t result) {
  return result == ncclRemoteError ? "remote process exited or there was a network error" : "invalid usage";
}
const char* ncclGetLastError(ncclComm_t) {
  return "as the emulated network was told";
}

ncclResult_t ncclGroupStart() {
  ++emulation::depth;
  return ncclSuccess;
}
ncclResult_t ncclGroupEnd() {
  if (--emulation::depth > 0) return ncclSuccess;
  if (emulation::grouped.empty()) return ncclSuccess;
  const auto [communicator, first] = emulation::grouped[0];
  std::vector<emulation::Transfer> calls;
  for (const auto& [other, call] : emulation::grouped) {
    if (other != communicator || call.first != first.first) emulation::stop("NCCL: a group over communicators");
    calls.push_back(call.second);
  }
  emulation::grouped.clear();
  return emulation::begin(communicator, first.first, std::move(calls));
}

ncclResult_t ncclAllReduce(const void* from, void* to, std::size_t count, ncclDataType_t type, ncclRedOp_t,
                           ncclComm_t communicator, cudaStream_t stream) {
  return emulation::call(communicator, stream, {Kind::all_reduce, from, to, count, type, 0});
}
ncclResult_t ncclReduce(const void* from, void* to, std::size_t count, ncclDataType_t type, ncclRedOp_t, int root,
                        ncclComm_t communicator, cudaStream_t stream) {
  return emulation::call(communicator, stream, {Kind::reduce, from, to, count, type, root});
}
ncclResult_t ncclReduceScatter(const void* from, void* to, std::size_t count, ncclDataType_t type, ncclRedOp_t,
                               ncclComm_t communicator, cudaStream_t stream) {
  return emulation::call(communicator, stream, {Kind::reduce_scatter, from, to, count, type, 0});
}
ncclResult_t ncclAllGather(const void* from, void* to, std::size_t count, ncclDataType_t type, ncclComm_t communicator,
                           cudaStream_t stream) {
  return emulation::call(communicator, stream, {Kind::all_gather, from, to, count, type, 0});
}
ncclResult_t ncclBroadcast(const void* from, void* to, std::size_t count, ncclDataType_t type, int root,
                           ncclComm_t communicator, cudaStream_t stream) {
  return emulation::call(communicator, stream, {Kind::broadcast, from, to, count, type, root});
}

}  // extern "C"
