// A job that MPI has started: its life cycle, and messages with deadlines. The base of comm/mpi.hpp.
//
// Every wait polls. It ends when its deadline passes, when another thread calls abort(), and when another rank sends a
// notice that it gave up.
#pragma once

#include <mpi.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <chrono>
#include <cstddef>
#include <cstdlib>
#include <exception>
#include <mutex>
#include <string>
#include <string_view>
#include <thread>
#include <vector>

#include "tessera/comm/communicator.hpp"

namespace tessera {
inline namespace TESSERA_ABI {
namespace comm::detail {

[[nodiscard]] inline std::string mpi_error_text(int code) {
  std::array<char, MPI_MAX_ERROR_STRING> text{};
  int length = 0;
  MPI_Error_string(code, text.data(), &length);
  return {text.data(), static_cast<std::size_t>(length)};
}

// For calls that no other rank takes part in.
inline void check_mpi(int code, std::string_view what) {
  if (code != MPI_SUCCESS) fail("{}: {}", what, mpi_error_text(code));
}

// MPI itself, and the state that a communicator and its duplicates share: the deadline of calls, and whether the job is
// lost.
class MpiJob {
 public:
  using Clock = std::chrono::steady_clock;

  MpiJob() {
    start();
    int ranks = 0, found = 0;
    void* highest = nullptr;
    check_mpi(MPI_Comm_size(MPI_COMM_WORLD, &ranks), "MPI_Comm_size");
    check_launcher(ranks);
    check_mpi(MPI_Comm_get_attr(MPI_COMM_WORLD, MPI_TAG_UB, static_cast<void*>(&highest), &found), "MPI_TAG_UB");
    if (found) highest_tag_ = *static_cast<const int*>(highest);
    check_mpi(MPI_Comm_dup(MPI_COMM_WORLD, &notices_), "MPI_Comm_dup");
    check_mpi(MPI_Comm_set_errhandler(notices_, MPI_ERRORS_RETURN), "MPI_Comm_set_errhandler");
    check_mpi(MPI_Comm_rank(notices_, &rank_), "MPI_Comm_rank");
    size_ = ranks;
  }
  MpiJob(const MpiJob&) = delete;
  MpiJob& operator=(const MpiJob&) = delete;

  // Finalizes MPI if it was initialized here and all ranks come before the deadline, since MPI_Finalize would wait for
  // them for ever. Otherwise the launcher ends the rest of the job. A rank that heard of the failure from another one
  // waits a second, so that the exit code and the message of the other one come first.
  ~MpiJob();

  [[nodiscard]] int rank() const noexcept { return rank_; }
  [[nodiscard]] int size() const noexcept { return size_; }
  [[nodiscard]] MPI_Comm notices() const noexcept { return notices_; }
  [[nodiscard]] int tag(const Call& call) const noexcept {
    constexpr int operations = 4;
    return static_cast<int>(call.number % (highest_tag_ / operations)) * operations + static_cast<int>(call.operation);
  }

  [[nodiscard]] std::chrono::milliseconds deadline() const noexcept { return deadline_.load(); }
  void set_deadline(std::chrono::milliseconds deadline) noexcept { deadline_ = deadline; }

  [[nodiscard]] bool lost() const noexcept { return lost_.load(std::memory_order_acquire); }
  [[nodiscard]] std::string why() const {
    const std::lock_guard lock(mutex_);
    return why_;
  }
  void check() const {
    if (lost()) throw RankLost(why());
  }

  // Makes later calls fail, and waiting ones as soon as they see it, on this rank and on all ranks that a notice
  // reaches.
  void lose(std::string_view why) {
    if (become_lost(why, Clock::duration::zero())) tell(why);
  }
  void abort() noexcept {
    try {
      lose(fmt::format("rank {} gave up", rank_));
    } catch (...) {
      lost_ = true;
    }
  }

  // True when a waiting call has to fail. A rank that gave up has sent its share of all earlier calls, so those get
  // some time to complete.
  [[nodiscard]] bool over(Clock::time_point now) const noexcept { return lost() && now >= over_at_.load(); }

  // Takes notices of other ranks.
  void listen() {
    int found = 0;
    MPI_Message message{};
    MPI_Status status{};
    if (MPI_Improbe(MPI_ANY_SOURCE, 0, notices_, &found, &message, &status) != MPI_SUCCESS || !found) return;
    Notice notice{};
    MPI_Request request{};
    MPI_Imrecv(notice.data(), static_cast<int>(notice.size() - 1), MPI_CHAR, &message, &request);
    MPI_Wait(&request, MPI_STATUS_IGNORE);  // it has arrived
    if (become_lost(fmt::format("told by rank {}: {}", status.MPI_SOURCE, notice.data()), grace)) told_ = true;
  }

 private:
  using Notice = std::array<char, 512>;
  static constexpr std::chrono::milliseconds grace{100}, courtesy{1000};

  void start() {
    int initialized = 0, finalized = 0, level = MPI_THREAD_SINGLE;
    MPI_Initialized(&initialized);
    MPI_Finalized(&finalized);
    if (finalized)
      fail("MPI was finalised and cannot be started again: keep one communicator while the program needs any");
    ours_ = !initialized;
    if (ours_)
      check_mpi(MPI_Init_thread(nullptr, nullptr, MPI_THREAD_MULTIPLE, &level), "MPI_Init_thread");
    else
      check_mpi(MPI_Query_thread(&level), "MPI_Query_thread");
    // MPICH asks MPI_COMM_WORLD what to do about errors that calls for many requests find.
    if (ours_) check_mpi(MPI_Comm_set_errhandler(MPI_COMM_WORLD, MPI_ERRORS_RETURN), "MPI_Comm_set_errhandler");
    if (level < MPI_THREAD_MULTIPLE)
      fail("MPI offers thread level {}, but MPI_THREAD_MULTIPLE ({}) is needed: {}", level, int{MPI_THREAD_MULTIPLE},
           ours_ ? "install an MPI that was built with it" : "initialise MPI with MPI_Init_thread and that level");
  }
  static void check_launcher(int ranks) {
    for (const char* variable : {"OMPI_COMM_WORLD_SIZE", "PMI_SIZE"})
      if (const char* started = std::getenv(variable); started != nullptr && ranks == 1 && std::atoi(started) > 1)
        fail(
            "{} says that {} ranks were started, but MPI sees only one: the launcher belongs to another MPI than the "
            "program, which is linked with {}",
            variable, started, library());
  }
  [[nodiscard]] static std::string library() {
    std::array<char, MPI_MAX_LIBRARY_VERSION_STRING> text{};
    int length = 0;
    MPI_Get_library_version(text.data(), &length);
    const std::string_view all(text.data(), static_cast<std::size_t>(length));
    return std::string(all.substr(0, all.find_first_of(",\n")));
  }

  bool become_lost(std::string_view why, Clock::duration grace_left) {
    const std::lock_guard lock(mutex_);
    if (lost()) {
      over_at_ = smaller(over_at_.load(), Clock::now() + grace_left);
      return false;
    }
    why_ = why;
    over_at_ = Clock::now() + grace_left;
    lost_.store(true, std::memory_order_release);
    return true;
  }
  // Sends without waiting for completion: buffers of failed calls no longer belong to MPI.
  void tell(std::string_view why) const {
    static Notice notice;  // outlives the sends
    why.copy(notice.data(), notice.size() - 1);
    const int length = static_cast<int>(smaller(why.size(), notice.size() - 1));
    for (int r = 0; r < size_; ++r)
      if (MPI_Request request{};
          r != rank_ && MPI_Isend(notice.data(), length, MPI_CHAR, r, 0, notices_, &request) == MPI_SUCCESS)
        MPI_Request_free(&request);
  }

  MPI_Comm notices_ = MPI_COMM_NULL;
  int rank_ = 0, size_ = 1, highest_tag_ = 32767;
  int exceptions_ = std::uncaught_exceptions();
  bool ours_ = false;
  std::atomic<std::chrono::milliseconds> deadline_{default_deadline};
  std::atomic<bool> lost_{false}, told_{false};
  std::atomic<Clock::time_point> over_at_{};
  mutable std::mutex mutex_;
  std::string why_;
};

// The way in which a polling thread waits: it spins for some microseconds, then yields, then sleeps.
class Backoff {
 public:
  void reset() noexcept { polls_ = 0; }
  // True when the thread has polled for so long that it may do other work between polls.
  [[nodiscard]] bool idle() const noexcept { return polls_ > spins; }
  void pause() {
    if (++polls_ <= spins) return;
    if (polls_ <= spins + yields)
      std::this_thread::yield();
    else
      std::this_thread::sleep_for(std::chrono::microseconds(100));
  }

 private:
  static constexpr int spins = 100, yields = 1000;
  int polls_ = 0;
};

// The messages of one call.
class MpiTransfers {
 public:
  explicit MpiTransfers(MPI_Comm communicator) noexcept : communicator_(communicator) {}

  void send(int to, const std::byte* values, std::size_t bytes, int tag) {
    in_chunks(bytes, [&](std::size_t first, int size) {
      return MPI_Isend(values + first, size, MPI_BYTE, to, tag, communicator_, add({to, size, false}));
    });
  }
  void receive(int from, std::byte* values, std::size_t bytes, int tag) {
    in_chunks(bytes, [&](std::size_t first, int size) {
      return MPI_Irecv(values + first, size, MPI_BYTE, from, tag, communicator_, add({from, size, true}));
    });
  }
  void barrier() { check(MPI_Ibarrier(communicator_, add({nobody, 0, false})), nobody); }
  // A collective call; the handle is valid when all is complete.
  void duplicate(MPI_Comm* to) { check(MPI_Comm_idup(communicator_, to, add({nobody, 0, false})), nobody); }

  // Returns when all messages have been sent and received.
  void complete(MpiJob& job) {
    const auto deadline = MpiJob::Clock::now() + job.deadline();
    Backoff backoff;
    for (std::size_t open = messages_.size(); open > 0;) {
      if (const std::size_t done = poll(); done > 0) {
        open -= done;
        backoff.reset();
        continue;
      }
      if (backoff.idle()) job.listen();
      const auto now = MpiJob::Clock::now();
      if (job.over(now)) throw RankLost(job.why());
      if (now >= deadline) throw RankLost(silence(job.deadline()));
      backoff.pause();
    }
    clear();
  }

  // Gives up messages that are not complete. Nothing is received into their buffers once this returns.
  void drop() noexcept {
    for (std::size_t i = 0; i < messages_.size(); ++i)
      if (requests_[i] != MPI_REQUEST_NULL && messages_[i].receives) {
        MPI_Cancel(&requests_[i]);
        MPI_Request_free(&requests_[i]);
      }
    clear();
  }

 private:
  static constexpr int nobody = -1;
  static constexpr std::size_t chunk = std::size_t{8} << 20;  // bytes of a message; MPI counts with int
  struct Message {
    int peer, bytes;
    bool receives;
  };

  MPI_Request* add(Message message) {
    messages_.push_back(message);
    requests_.push_back(MPI_REQUEST_NULL);
    return &requests_.back();
  }
  void clear() noexcept {
    messages_.clear();
    requests_.clear();
  }
  template <class Start>
  void in_chunks(std::size_t bytes, Start&& start) {
    for (std::size_t first = 0; first < bytes; first += chunk) {
      const int code = start(first, static_cast<int>(smaller(chunk, bytes - first)));
      check(code, messages_.back().peer);
    }
  }
  static void check(int code, int peer) {
    if (code == MPI_SUCCESS) return;
    if (peer == nobody) throw RankLost(mpi_error_text(code));
    fail_lost("with rank {}: {}", peer, mpi_error_text(code));
  }

  // The number of messages that have been completed since the last call.
  std::size_t poll() {
    int count = 0;
    done_.resize(requests_.size());
    statuses_.resize(requests_.size());
    const int code =
        MPI_Testsome(static_cast<int>(requests_.size()), requests_.data(), &count, done_.data(), statuses_.data());
    if (code != MPI_SUCCESS && code != MPI_ERR_IN_STATUS) check(code, nobody);
    for (int i = 0; i < count; ++i) {
      const auto at = static_cast<std::size_t>(i);
      accept(messages_[static_cast<std::size_t>(done_[at])], statuses_[at], code);
    }
    return static_cast<std::size_t>(count);
  }
  static void accept(const Message& message, MPI_Status& status, int code) {
    if (code == MPI_ERR_IN_STATUS && status.MPI_ERROR != MPI_ERR_PENDING) check(status.MPI_ERROR, message.peer);
    if (!message.receives) return;
    int bytes = 0;
    MPI_Get_count(&status, MPI_BYTE, &bytes);
    if (bytes != message.bytes)
      fail_lost("rank {} sent {} bytes where {} were expected: ranks do not do the same", message.peer, bytes,
                message.bytes);
  }

  // Names the ranks from which nothing came; if there are none, those that received nothing.
  [[nodiscard]] std::string silence(std::chrono::milliseconds deadline) const {
    std::vector<int> silent;
    for (const bool receives : {true, false})
      if (silent.empty())
        for (std::size_t i = 0; i < messages_.size(); ++i)
          if (requests_[i] != MPI_REQUEST_NULL && messages_[i].receives == receives)
            silent.push_back(messages_[i].peer);
    std::sort(silent.begin(), silent.end());
    silent.erase(std::unique(silent.begin(), silent.end()), silent.end());
    const double seconds = std::chrono::duration<double>(deadline).count();
    if (silent.front() == nobody) return fmt::format("a rank did not come within {:.1f} s", seconds);
    return fmt::format("rank {} did not come within {:.1f} s", fmt::join(silent, ", "), seconds);
  }

  MPI_Comm communicator_;
  std::vector<Message> messages_;
  std::vector<MPI_Request> requests_;
  std::vector<int> done_;
  std::vector<MPI_Status> statuses_;
};

inline MpiJob::~MpiJob() {
  if (std::uncaught_exceptions() > exceptions_) abort();
  if (ours_ && told_) std::this_thread::sleep_for(courtesy);
  if (!ours_ || lost()) return;
  try {
    MpiTransfers transfers(notices_);
    transfers.barrier();
    transfers.complete(*this);
    MPI_Finalize();
  } catch (...) {
    abort();
  }
}

}  // namespace comm::detail
}  // namespace TESSERA_ABI
}  // namespace tessera
