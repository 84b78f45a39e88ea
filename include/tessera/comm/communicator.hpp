// The common parts of all communicators: names of calls, displacements of the ranks' parts of a buffer, the order of
// summation, and the error that ends a job.
//
// A communicator is one rank's end of a group of processes or threads. All ranks of a group make the same calls in the
// same order with the same counts and types; a count of 0 is legal, and so is any number of ranks. Elements are added
// up in the order of ranks, so that all ranks, all communicators on the host, and all ways to cut a buffer give the
// same bits. Once a call has failed, those that follow fail at once.
#pragma once

#include <chrono>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <type_traits>

#include "tessera/core/abi.hpp"
#include "tessera/core/errors.hpp"
#include "tessera/core/index.hpp"
#include "tessera/core/scalar.hpp"

namespace tessera {
inline namespace TESSERA_ABI {
namespace comm {

// A rank died, did not come in time, or called something else. The job cannot go on.
class RankLost : public Error {
 public:
  using Error::Error;
  [[nodiscard]] int exit_code() const noexcept override { return tessera::exit_code::rank_lost; }
};

template <class... Args>
[[noreturn]] void fail_lost(fmt::format_string<Args...> message, Args&&... args) {
  throw RankLost(fmt::format(message, std::forward<Args>(args)...));
}

// Queue tag for calls on host memory without a backend; they complete in program order.
struct Host {};

inline constexpr std::chrono::seconds default_deadline{300};  // that a call may wait for the other ranks

// Calls take the backend, or the lane beside it, whose work they follow. A queue without a stream is the host's.
template <class Queue>
concept HostQueue = !requires(Queue & queue) {
  queue.stream();
};

enum class Operation : std::uint8_t { all_reduce, reduce_scatter, all_gather, broadcast };

[[nodiscard]] constexpr std::string_view name(Operation operation) {
  constexpr std::string_view names[] = {"all_reduce", "reduce_scatter", "all_gather", "broadcast"};
  return names[static_cast<int>(operation)];
}

// The types of values in a call.
enum class Type : std::uint8_t { int8, int32, int64, bfloat16, float32, float64 };

[[nodiscard]] constexpr std::string_view name(Type type) {
  constexpr std::string_view names[] = {"int8", "int32", "int64", "bf16", "float", "double"};
  return names[static_cast<int>(type)];
}

template <class Value>
[[nodiscard]] constexpr Type type_of() {
  static_assert(std::is_arithmetic_v<Value> || std::is_same_v<Value, bf16>,
                "tessera: communicators take numbers: float, double, bf16 and integers");
  if constexpr (std::is_same_v<Value, bf16>)
    return Type::bfloat16;
  else if constexpr (std::is_floating_point_v<Value>)
    return sizeof(Value) == 8 ? Type::float64 : Type::float32;
  else
    return sizeof(Value) == 8 ? Type::int64 : sizeof(Value) == 4 ? Type::int32 : Type::int8;
}

// One call, in the form that ranks compare and messages print. number counts the calls of a communicator from 1.
struct Call {
  Operation operation;
  Type type;
  std::int64_t count, number;

  bool operator==(const Call&) const = default;
  [[nodiscard]] std::string text() const {
    return fmt::format("{} of {} {} (call {})", name(operation), count, name(type), number);
  }
};

// The ranks' parts of a buffer: rank r has the elements [displacements[r], displacements[r + 1]). size() + 1 values,
// ascending from 0.
using Displacements = std::span<const index>;

// The first element of rank r's part when `count` elements are divided among `ranks` ranks as evenly as multiples of
// `multiple` allow. For r = ranks: the count.
[[nodiscard]] constexpr index even_displacement(index count, int ranks, int r, index multiple = 1) {
  const index cut = divide_up(divide_up(count, multiple), ranks) * multiple * r;
  return cut < count ? cut : count;
}

// to[i] = from(0)[i] + from(1)[i] + ... over the ranks, added in this order; bf16 in float, rounded once. from(rank) is
// where the rank's values are; to may be among them.
template <class Value, class From>
void sum_in_order(int ranks, From&& from, index count, Value* to) {
  using Sum = Accumulator<Value>;
  constexpr index tile = 512;
  Sum sums[tile];
  for (index first = 0; first < count; first += tile) {
    const index size = count - first < tile ? count - first : tile;
    for (int rank = 0; rank < ranks; ++rank) {
      const Value* const values = from(rank) + first;
      if (rank == 0)
        for (index i = 0; i < size; ++i) sums[i] = static_cast<Sum>(values[i]);
      else
        for (index i = 0; i < size; ++i) sums[i] = static_cast<Sum>(sums[i] + static_cast<Sum>(values[i]));
    }
    for (index i = 0; i < size; ++i) to[first + i] = static_cast<Value>(sums[i]);
  }
}

}  // namespace comm
}  // namespace TESSERA_ABI
}  // namespace tessera
