// What every communicator must do, as functions that all its ranks call: the same for threads under GoogleTest and for
// processes under mpirun. The first thing that is wrong is thrown, with the rank, as an exception.
#pragma once

#include <chrono>
#include <cstdint>
#include <cstring>
#include <stdexcept>
#include <string>
#include <thread>
#include <type_traits>
#include <vector>

#include "tessera/comm/communicator.hpp"
#include "tessera/concepts.hpp"

namespace tessera::test {

class Wrong : public std::logic_error {
 public:
  using std::logic_error::logic_error;
};

template <class... Args>
void require(bool right, fmt::format_string<Args...> message, Args&&... args) {
  if (!right) throw Wrong(fmt::format(message, std::forward<Args>(args)...));
}

// The message of the RankLost that call() throws; anything else is wrong.
template <class Body>
std::string lost(Body&& call) {
  try {
    call();
  } catch (const comm::RankLost& error) {
    return error.what();
  }
  throw Wrong("nothing was thrown where RankLost was expected");
}
inline void require_in(const std::string& part, const std::string& message) {
  require(message.find(part) != std::string::npos, "\"{}\" is not in the message: {}", part, message);
}

class Stopwatch {
 public:
  [[nodiscard]] double seconds() const {
    return std::chrono::duration<double>(std::chrono::steady_clock::now() - start_).count();
  }

 private:
  std::chrono::steady_clock::time_point start_ = std::chrono::steady_clock::now();
};

enum class Values { whole, random };  // whole numbers whose sums are exact in every type, and any

// Element i of what rank `rank` hands in.
template <class Value>
Value handed_in(Values kind, int rank, index i) {
  auto bits =
      static_cast<std::uint64_t>(i) * 0x9E3779B97F4A7C15u + static_cast<std::uint64_t>(rank) * 0xD1B54A32D192ED03u;
  bits = (bits ^ bits >> 31) * 0xBF58476D1CE4E5B9u;
  bits ^= bits >> 29;
  if (kind == Values::whole) {
    const auto small = static_cast<int>(bits % 8);
    if constexpr (std::is_same_v<Value, bf16>)
      return bf16(static_cast<float>(small));
    else
      return static_cast<Value>(small);
  }
  if constexpr (std::is_same_v<Value, bf16>)
    return bf16(static_cast<float>(bits >> 40) * 0x1p-20f - 8.0f);
  else if constexpr (std::is_floating_point_v<Value>)
    return static_cast<Value>(static_cast<double>(bits >> 11) * 0x1p-50 - 4.0);
  else if constexpr (sizeof(Value) == 8)
    return static_cast<Value>(bits);
  else
    return static_cast<Value>(bits % 2000001) - 1000000;
}

// The sum over the ranks of element i, from the definition: added in the order of ranks.
template <class Value>
Value sum_of_ranks(Values kind, int ranks, index i) {
  if constexpr (std::is_same_v<Value, bf16>) {
    float sum = static_cast<float>(handed_in<bf16>(kind, 0, i));
    for (int r = 1; r < ranks; ++r) sum += static_cast<float>(handed_in<bf16>(kind, r, i));
    return bf16(sum);
  } else {
    Value sum = handed_in<Value>(kind, 0, i);
    for (int r = 1; r < ranks; ++r) sum = static_cast<Value>(sum + handed_in<Value>(kind, r, i));
    return sum;
  }
}

// A rank's values between two fences that nobody may write to.
template <class Value>
class Fenced {
 public:
  Fenced(Values kind, int rank, index count) : all_(static_cast<std::size_t>(count + 2 * fence)), count_(count) {
    for (index i = -fence; i < count + fence; ++i) data()[i] = handed_in<Value>(kind, rank, i);
  }
  [[nodiscard]] Value* data() { return all_.data() + fence; }

  // Elements [first, end) are what expected(i) says, bit for bit.
  template <class Expected>
  void require_all(index first, index end, const std::string& what, Expected&& expected) {
    for (index i = first; i < end; ++i)
      if (const Value right = expected(i); std::memcmp(&right, data() + i, sizeof(Value)) != 0)
        throw Wrong(fmt::format("{}: element {} is {}, not {}", what, i, text(data()[i]), text(right)));
  }
  void require_fences(Values kind, int rank, const std::string& what) {
    const auto untouched = [&](index i) { return handed_in<Value>(kind, rank, i); };
    require_all(-fence, 0, what, untouched);
    require_all(count_, count_ + fence, what, untouched);
  }

 private:
  static constexpr index fence = 3;  // values are not at the start of a cache line
  static std::string text(Value value) {
    if constexpr (std::is_same_v<Value, bf16>)
      return fmt::format("{}", static_cast<float>(value));
    else
      return fmt::format("{}", value);
  }

  std::vector<Value> all_;
  index count_;
};

// All four operations on `displacements`, whose last is the count, against the definition.
template <class Value, class Communicator>
void check_operations(Communicator& communicator, Values kind, const std::vector<index>& displacements) {
  comm::Host host;
  const int rank = communicator.rank(), size = communicator.size();
  const index count = displacements.back(), mine = displacements[static_cast<std::size_t>(rank)],
              after = displacements[static_cast<std::size_t>(rank) + 1];
  const auto sum = [&](index i) { return sum_of_ranks<Value>(kind, size, i); };
  const auto own = [&](index i) { return handed_in<Value>(kind, rank, i); };
  const auto what = [&](comm::Operation operation) {
    return fmt::format("rank {} of {}, {} of {} {}", rank, size, name(operation), count, name(comm::type_of<Value>()));
  };
  {
    Fenced<Value> values(kind, rank, count);
    communicator.all_reduce(host, values.data(), count);
    values.require_all(0, count, what(comm::Operation::all_reduce), sum);
    values.require_fences(kind, rank, what(comm::Operation::all_reduce));
  }
  {
    Fenced<Value> values(kind, rank, count);
    communicator.reduce_scatter(host, values.data(), comm::Displacements(displacements));
    values.require_all(0, mine, what(comm::Operation::reduce_scatter), own);
    values.require_all(mine, after, what(comm::Operation::reduce_scatter), sum);
    values.require_all(after, count, what(comm::Operation::reduce_scatter), own);
    values.require_fences(kind, rank, what(comm::Operation::reduce_scatter));
  }
  {
    Fenced<Value> values(kind, rank, count);
    communicator.all_gather(host, values.data(), comm::Displacements(displacements));
    for (int r = 0; r < size; ++r)
      values.require_all(displacements[static_cast<std::size_t>(r)], displacements[static_cast<std::size_t>(r) + 1],
                         what(comm::Operation::all_gather), [&](index i) { return handed_in<Value>(kind, r, i); });
    values.require_fences(kind, rank, what(comm::Operation::all_gather));
  }
  {
    Fenced<Value> values(kind, rank, count);
    communicator.broadcast(host, values.data(), count);
    values.require_all(0, count, what(comm::Operation::broadcast),
                       [&](index i) { return handed_in<Value>(kind, 0, i); });
    values.require_fences(kind, rank, what(comm::Operation::broadcast));
  }
  communicator.wait(host);
}

inline std::vector<index> even_cuts(index count, int ranks, index multiple = 1) {
  std::vector<index> displacements;
  for (int r = 0; r <= ranks; ++r) displacements.push_back(comm::even_displacement(count, ranks, r, multiple));
  return displacements;
}

// Counts around everything that code may round to.
template <class Value, class Communicator>
void check_counts(Communicator& communicator) {
  const index n = communicator.size();
  for (const index count :
       {index{0}, index{1}, index{2}, n - 1, n, n + 1, index{127}, index{128}, index{129}, index{1000}, index{10007}})
    for (const Values kind : {Values::whole, Values::random})
      check_operations<Value>(communicator, kind, even_cuts(count, communicator.size()));
}

// Parts of other sizes: by multiples, all at one rank, growing from none.
template <class Communicator>
void check_cuts(Communicator& communicator) {
  const int n = communicator.size();
  check_operations<float>(communicator, Values::random, even_cuts(5000, n, 128));
  for (int owner = 0; owner < n; ++owner) {
    std::vector<index> displacements(static_cast<std::size_t>(n) + 1, 0);
    for (int r = owner + 1; r <= n; ++r) displacements[static_cast<std::size_t>(r)] = 777;
    check_operations<double>(communicator, Values::random, displacements);
  }
  std::vector<index> growing(1, 0);
  for (index r = 0; r < n; ++r) growing.push_back(growing.back() + r * 100);
  check_operations<float>(communicator, Values::random, growing);
}

// A communicator and its duplicate are used by two threads at the same time, in orders that differ between the ranks.
template <class Communicator>
void check_duplicate(Communicator& communicator) {
  Communicator other = communicator.duplicate();
  require(other.rank() == communicator.rank() && other.size() == communicator.size(),
          "the duplicate is rank {} of {}, not {} of {}", other.rank(), other.size(), communicator.rank(),
          communicator.size());
  std::string wrong;
  std::thread beside([&] {
    try {
      for (int i = 0; i < 20; ++i) check_operations<float>(other, Values::random, even_cuts(500 + 3 * i, other.size()));
    } catch (const std::exception& error) {
      wrong = error.what();
      other.abort();
    }
  });
  std::string wrong_here;
  try {
    for (int i = 0; i < 20; ++i) {
      if ((i + communicator.rank()) % 7 == 0) std::this_thread::sleep_for(std::chrono::milliseconds(1));
      check_operations<float>(communicator, Values::whole, even_cuts(1000 - 7 * i, communicator.size()));
    }
  } catch (const std::exception& error) {
    wrong_here = error.what();
    communicator.abort();
  }
  beside.join();
  require(wrong_here.empty(), "{}", wrong_here);
  require(wrong.empty(), "in the duplicate: {}", wrong);
}

// Everything that is not about failures.
template <class Communicator>
requires tessera::Communicator<Communicator>
void check_all(Communicator& communicator) {
  check_counts<double>(communicator);
  check_counts<float>(communicator);
  check_counts<bf16>(communicator);
  check_counts<std::int32_t>(communicator);
  check_counts<std::uint64_t>(communicator);
  check_cuts(communicator);
  check_duplicate(communicator);
}

// Failures. Each leaves the communicator lost.

inline constexpr std::chrono::milliseconds short_deadline{500};

// Calls fail at once once one has failed, in duplicates too.
template <class Communicator>
void require_poisoned(Communicator& communicator, Communicator& duplicate) {
  comm::Host host;
  float values[4] = {};
  const Stopwatch watch;
  for (int i = 0; i < 3; ++i) {
    lost([&] { communicator.all_reduce(host, values, 4); });
    lost([&] { duplicate.broadcast(host, values, 4); });
  }
  require(watch.seconds() < 0.2, "rank {}: calls after the first failure took {:.2f} s", communicator.rank(),
          watch.seconds());
}

// The last rank does not come; silence() is what it does instead. At least two ranks.
template <class Communicator, class Silence>
void check_silent_rank(Communicator& communicator, Silence&& silence) {
  const int last = communicator.size() - 1;
  Communicator duplicate = communicator.duplicate();
  communicator.set_deadline(short_deadline);
  comm::Host host;
  std::vector<float> values(100);
  communicator.all_reduce(host, values.data(), 100);
  if (communicator.rank() == last) return silence();
  const Stopwatch watch;
  const std::string message = lost([&] { duplicate.all_reduce(host, values.data(), 100); });
  const double limit = std::chrono::duration<double>(short_deadline).count();
  require(watch.seconds() > 0.8 * limit && watch.seconds() <= 2 * limit, "rank {}: waited {:.2f} s, not {} s: {}",
          communicator.rank(), watch.seconds(), limit, message);
  require_in("all_reduce of 100 float (call 1)", message);
  require_in(fmt::format("rank {} did not come within 0.5 s", last), message);
  require_poisoned(communicator, duplicate);
}

// A thread waits in a duplicate, and abort() in another thread ends that.
template <class Communicator>
void check_abort(Communicator& communicator) {
  Communicator duplicate = communicator.duplicate();
  comm::Host host;
  if (communicator.rank() == 0) {
    std::string message;
    const Stopwatch watch;
    std::thread waiting([&] {
      comm::Host beside;
      float value = 0;
      try {
        duplicate.all_reduce(beside, &value, 1);
      } catch (const comm::RankLost& error) {
        message = error.what();
      }
    });
    std::this_thread::sleep_for(std::chrono::milliseconds(100));
    communicator.abort();
    waiting.join();
    require_in("rank 0 gave up", message);
    require(watch.seconds() < 0.5, "abort() took {:.2f} s", watch.seconds());
    require_poisoned(communicator, duplicate);
  } else {
    float value = 0;
    const Stopwatch watch;
    require_in("rank 0 gave up", lost([&] { communicator.all_reduce(host, &value, 1); }));
    require(watch.seconds() < 2, "rank {}: heard of rank 0's abort() after {:.2f} s", communicator.rank(),
            watch.seconds());
  }
}

// Rank 1 calls something else, which a Checked communicator tells all ranks. At least two ranks.
template <class Communicator>
void check_disagreement(Communicator& communicator) {
  comm::Host host;
  std::vector<double> values(10);
  communicator.all_reduce(host, values.data(), 10);
  const Stopwatch watch;
  const std::string message = lost([&] {
    if (communicator.rank() == 1)
      communicator.broadcast(host, values.data(), 7);
    else
      communicator.all_reduce(host, values.data(), 10);
  });
  require_in("rank 0 calls all_reduce of 10 double (call 2)", message);
  require_in("rank 1 calls broadcast of 7 double (call 2)", message);
  require(watch.seconds() < 1, "rank {}: the disagreement was found after {:.2f} s", communicator.rank(),
          watch.seconds());
  lost([&] { communicator.all_reduce(host, values.data(), 10); });
}

}  // namespace tessera::test
