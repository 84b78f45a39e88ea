// A communicator that records its calls: totals for cost models, and the last calls for the report about a lost job.
#pragma once

#include <array>
#include <cerrno>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <memory>
#include <mutex>
#include <string>
#include <string_view>
#include <system_error>
#include <utility>

#include "tessera/comm/communicator.hpp"

namespace tessera {
inline namespace TESSERA_ABI {
namespace comm {

// The calls of one rank: of a communicator (lane 0) and of its duplicates (lanes 1, 2, ...). May be read while other
// threads are in calls.
class Record {
 public:
  using Clock = std::chrono::steady_clock;
  static constexpr std::int64_t remembered = 64;  // calls

  struct Total {
    std::int64_t calls = 0;
    std::int64_t bytes = 0;  // of whole buffers, all ranks' parts: count times the size of an element
    double seconds = 0;      // from call to return; on a device, until the work is queued
  };
  struct Entry {
    Call call{};
    int lane = 0;
    Clock::time_point start{};
    double seconds = -1;  // negative while the call runs
    bool failed = false;
  };

  explicit Record(int rank) : rank_(rank) {}

  // The calls of this operation that have returned, with their bytes and seconds.
  [[nodiscard]] Total total(Operation operation) const {
    const std::lock_guard lock(mutex_);
    return totals_[static_cast<std::size_t>(operation)];
  }

  // The last calls, oldest first, a line for each: lane, call, and the seconds it took, has been running, or ran before
  // it failed.
  [[nodiscard]] std::string last_calls() const {
    const std::lock_guard lock(mutex_);
    std::string text;
    for (std::int64_t id = begun_ > remembered ? begun_ - remembered : 0; id < begun_; ++id) {
      const Entry& entry = last_[static_cast<std::size_t>(id % remembered)];
      const bool running = entry.seconds < 0;
      text += fmt::format("rank {} lane {}: {} {} {:.6f} s\n", rank_, entry.lane, entry.call.text(),
                          running        ? "has been running for"
                          : entry.failed ? "failed after"
                                         : "took",
                          running ? seconds_since(entry.start) : entry.seconds);
    }
    return text;
  }

  // Writes a line for each call that returns from now on to a new file: columns are separated by tabs and named in the
  // first line; start and seconds are in seconds. Throws Error if that fails, and so does a call whose line cannot be
  // written.
  void trace(const std::string& path) {
    const std::lock_guard lock(mutex_);
    file_ = {std::fopen(path.c_str(), "w"), &std::fclose};
    path_ = path;
    write("rank\tlane\tcall\toperation\ttype\tcount\tbytes\tstart\tseconds\n");
  }

  // For Recorded.
  [[nodiscard]] int add_lane() {
    const std::lock_guard lock(mutex_);
    return lanes_++;
  }
  [[nodiscard]] std::int64_t begin(const Entry& entry) {
    const std::lock_guard lock(mutex_);
    last_[static_cast<std::size_t>(begun_ % remembered)] = entry;
    return begun_++;
  }
  void end(std::int64_t id, Entry entry, std::int64_t bytes) {
    const std::lock_guard lock(mutex_);
    entry.seconds = seconds_since(entry.start);
    if (id >= begun_ - remembered) last_[static_cast<std::size_t>(id % remembered)] = entry;
    if (entry.failed) return;
    Total& total = totals_[static_cast<std::size_t>(entry.call.operation)];
    ++total.calls;
    total.bytes += bytes;
    total.seconds += entry.seconds;
    if (file_)
      write(fmt::format("{}\t{}\t{}\t{}\t{}\t{}\t{}\t{:.6f}\t{:.6f}\n", rank_, entry.lane, entry.call.number,
                        name(entry.call.operation), name(entry.call.type), entry.call.count, bytes,
                        std::chrono::duration<double>(entry.start - made_).count(), entry.seconds));
  }

 private:
  [[nodiscard]] static double seconds_since(Clock::time_point start) {
    return std::chrono::duration<double>(Clock::now() - start).count();
  }
  // Flushes: the lines of a job that is killed are there.
  void write(std::string_view line) {
    if (!file_ || std::fwrite(line.data(), 1, line.size(), file_.get()) != line.size() || std::fflush(file_.get()) != 0)
      fail("{}: the trace of calls cannot be written: {}", path_, std::generic_category().message(errno));
  }

  int rank_;
  const Clock::time_point made_ = Clock::now();
  mutable std::mutex mutex_;
  std::array<Total, 4> totals_{};
  std::array<Entry, remembered> last_{};
  std::int64_t begun_ = 0;
  int lanes_ = 0;
  std::string path_;
  std::unique_ptr<std::FILE, int (*)(std::FILE*)> file_{nullptr, &std::fclose};
};

// Cheap enough to be always on: two locks that nobody else holds, and two looks at the clock, a call.
template <class Communicator>
class Recorded {
 public:
  explicit Recorded(Communicator inner) : Recorded(std::move(inner), nullptr) {}

  [[nodiscard]] int rank() const noexcept { return inner_.rank(); }
  [[nodiscard]] int size() const noexcept { return inner_.size(); }
  [[nodiscard]] Communicator& inner() noexcept { return inner_; }
  [[nodiscard]] Record& record() const noexcept { return *record_; }

  template <class Queue, class Value>
  void all_reduce(Queue& queue, Value* values, index count) {
    call<Value>(Operation::all_reduce, count, [&] { inner_.all_reduce(queue, values, count); });
  }
  template <class Queue, class Value>
  void reduce_scatter(Queue& queue, Value* values, Displacements displacements) {
    call<Value>(Operation::reduce_scatter, displacements.back(),
                [&] { inner_.reduce_scatter(queue, values, displacements); });
  }
  template <class Queue, class Value>
  void all_gather(Queue& queue, Value* values, Displacements displacements) {
    call<Value>(Operation::all_gather, displacements.back(), [&] { inner_.all_gather(queue, values, displacements); });
  }
  template <class Queue, class Value>
  void broadcast(Queue& queue, Value* values, index count) {
    call<Value>(Operation::broadcast, count, [&] { inner_.broadcast(queue, values, count); });
  }

  template <class Queue>
  void wait(Queue& queue) {
    inner_.wait(queue);
  }
  // Shares the record.
  [[nodiscard]] Recorded duplicate() { return Recorded(inner_.duplicate(), record_); }
  void set_deadline(std::chrono::milliseconds deadline) { inner_.set_deadline(deadline); }
  void abort() noexcept { inner_.abort(); }

 private:
  Recorded(Communicator inner, std::shared_ptr<Record> record)
      : inner_(std::move(inner)),
        record_(record ? std::move(record) : std::make_shared<Record>(inner_.rank())),
        lane_(record_->add_lane()) {}

  template <class Value, class Body>
  void call(Operation operation, index count, Body&& body) {
    Record::Entry entry{{operation, type_of<Value>(), count, ++calls_}, lane_, Record::Clock::now()};
    const std::int64_t id = record_->begin(entry);
    const std::int64_t bytes = count * static_cast<index>(sizeof(Value));
    try {
      body();
    } catch (...) {
      entry.failed = true;
      record_->end(id, entry, bytes);
      throw;
    }
    record_->end(id, entry, bytes);
  }

  Communicator inner_;
  std::shared_ptr<Record> record_;
  int lane_;
  std::int64_t calls_ = 0;
};

}  // namespace comm
}  // namespace TESSERA_ABI
}  // namespace tessera
