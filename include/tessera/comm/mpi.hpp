// Ranks that are processes, on one host or on many, started by mpirun or srun: MPI, for values in host memory. MPI
// moves bytes; sums are made here, in the order of ranks.
#pragma once

#include <mpi.h>

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <memory>
#include <string>
#include <utility>

#include "tessera/comm/communicator.hpp"
#include "tessera/comm/mpi/job.hpp"

namespace tessera {
inline namespace TESSERA_ABI {
namespace comm {

// Calls allocate nothing after the first call of the same size. Destroying the last communicator finalizes MPI, if
// world() initialized it. After a RankLost it does not, because MPI_Finalize would wait for ever: the program then
// returns the error's exit code from main, and mpirun or srun ends the other ranks. Communicators that an exception
// destroys tell the other ranks.
class Mpi {
 public:
  // All ranks of MPI_COMM_WORLD, which is duplicated. Initializes MPI if that has not been done. All ranks call it
  // equally often, each from one thread. Throws Error if MPI does not support several threads, or if the launcher is
  // not that of the program's MPI.
  [[nodiscard]] static Mpi world() {
    static std::weak_ptr<detail::MpiJob> running;
    std::shared_ptr<detail::MpiJob> job = running.lock();
    if (!job) running = job = std::make_shared<detail::MpiJob>();
    return duplicate_of(job->notices(), job);
  }

  [[nodiscard]] int rank() const noexcept { return job_->rank(); }
  [[nodiscard]] int size() const noexcept { return job_->size(); }

  template <HostQueue Queue, class Value>
  void all_reduce(Queue&, Value* values, index count) {
    call<Value>(Operation::all_reduce, count, [&](const Call& call) {
      if (count * static_cast<index>(sizeof(Value)) * (size() - 1) <= whole_bytes) {
        reduce(call, values, [&](int) { return Part{0, count}; });
      } else {
        const auto part = [&](int r) {
          const index first = even_displacement(count, size(), r, grain);
          return Part{first, even_displacement(count, size(), r + 1, grain) - first};
        };
        reduce(call, values, part);
        gather(call, values, part);
      }
    });
  }
  template <HostQueue Queue, class Value>
  void reduce_scatter(Queue&, Value* values, Displacements displacements) {
    call<Value>(Operation::reduce_scatter, displacements.back(),
                [&](const Call& call) { reduce(call, values, [&](int r) { return part_of(displacements, r); }); });
  }
  template <HostQueue Queue, class Value>
  void all_gather(Queue&, Value* values, Displacements displacements) {
    call<Value>(Operation::all_gather, displacements.back(),
                [&](const Call& call) { gather(call, values, [&](int r) { return part_of(displacements, r); }); });
  }
  template <HostQueue Queue, class Value>
  void broadcast(Queue&, Value* values, index count) {
    call<Value>(Operation::broadcast, count, [&](const Call& call) { pass_on(call, values, count); });
  }

  template <class Queue>
  static void wait(Queue&) noexcept {}
  [[nodiscard]] Mpi duplicate() { return duplicate_of(communicator_, job_); }
  void set_deadline(std::chrono::milliseconds deadline) { job_->set_deadline(deadline); }
  void abort() noexcept { job_->abort(); }

  // Ends this rank and all others after a RankLost; mpirun or srun returns `code`. The last call of a program.
  [[noreturn]] static void end_job(int code) noexcept {
    MPI_Abort(MPI_COMM_WORLD, code);
    std::_Exit(code);
  }

 private:
  static constexpr index grain = 64;             // elements: parts start at cache lines
  static constexpr index whole_bytes = 1 << 16;  // to receive, up to which all ranks add everything up: half the waits
  struct Part {
    index first, count;
  };
  struct Duplication {
    [[nodiscard]] static std::string text() { return "duplicate()"; }
  };

  Mpi(MPI_Comm communicator, std::shared_ptr<detail::MpiJob> job)
      : communicator_(communicator), job_(std::move(job)), transfers_(communicator) {}

  [[nodiscard]] static Mpi duplicate_of(MPI_Comm communicator, const std::shared_ptr<detail::MpiJob>& job) {
    MPI_Comm made = MPI_COMM_NULL;
    detail::MpiTransfers transfers(communicator);
    guard(*job, transfers, Duplication(), [&](const Duplication&) {
      transfers.duplicate(&made);
      transfers.complete(*job);
    });
    detail::check_mpi(MPI_Comm_set_errhandler(made, MPI_ERRORS_RETURN), "MPI_Comm_set_errhandler");
    return {made, job};
  }
  [[nodiscard]] static Part part_of(Displacements displacements, int r) {
    const index first = displacements[static_cast<std::size_t>(r)];
    return {first, displacements[static_cast<std::size_t>(r) + 1] - first};
  }

  template <class Value, class Body>
  void call(Operation operation, index count, Body&& body) {
    guard(*job_, transfers_, Call{operation, type_of<Value>(), count, ++calls_}, body);
  }
  // Runs body(what). If it fails, all later calls fail too. what.text() names the call in the message.
  template <class What, class Body>
  static void guard(detail::MpiJob& job, detail::MpiTransfers& transfers, const What& what, Body&& body) {
    job.check();
    try {
      body(what);
    } catch (const RankLost& error) {
      const RankLost all(fmt::format("{}: {}", what.text(), error.what()));
      job.lose(all.what());
      transfers.drop();
      throw all;
    } catch (...) {
      job.abort();
      transfers.drop();
      throw;
    }
  }

  // Assigns this rank's part the sums over the ranks. part(r): the values that rank r contributes. Parts may overlap.
  template <class Value, class PartOf>
  void reduce(const Call& call, Value* values, PartOf&& part) {
    const Part own = part(rank());
    const index count = own.count;
    const std::size_t room = round_up(bytes_of<Value>(count));
    reserve(room * static_cast<std::size_t>(size()));
    const auto theirs = [&](int r) { return scratch_.get() + room * static_cast<std::size_t>(r); };
    for_others([&](int r) { transfers_.receive(r, theirs(r), bytes_of<Value>(count), job_->tag(call)); });
    for_others([&](int r) { send(call, r, values, part(r)); });
    transfers_.complete(*job_);
    sum_in_order(
        size(),
        [&, mine = values + own.first](int r) {
          return r == rank() ? mine : reinterpret_cast<const Value*>(theirs(r));
        },
        count, values + own.first);
  }
  // Brings every rank's part to all ranks.
  template <class Value, class PartOf>
  void gather(const Call& call, Value* values, PartOf&& part) {
    for_others([&](int r) { receive(call, r, values, part(r)); });
    for_others([&](int r) { send(call, r, values, part(rank())); });
    transfers_.complete(*job_);
  }
  // Broadcasts down a binomial tree: a rank receives from the rank without its lowest set bit and sends to those with
  // one more bit below it.
  template <class Value>
  void pass_on(const Call& call, Value* values, index count) {
    const int lowest = rank() == 0 ? 1 << 30 : rank() & -rank();
    if (rank() != 0) {
      receive(call, rank() - lowest, values, {0, count});
      transfers_.complete(*job_);
    }
    for (int bit = 1; bit < lowest && bit < size() - rank(); bit *= 2) send(call, rank() + bit, values, {0, count});
    transfers_.complete(*job_);
  }

  // Starts with the neighbour, so that not all ranks send to the same one.
  template <class Body>
  void for_others(Body&& body) const {
    for (int step = 1; step < size(); ++step) body((rank() + step) % size());
  }
  template <class Value>
  void send(const Call& call, int to, const Value* values, Part part) {
    transfers_.send(to, reinterpret_cast<const std::byte*>(values + part.first), bytes_of<Value>(part.count),
                    job_->tag(call));
  }
  template <class Value>
  void receive(const Call& call, int from, Value* values, Part part) {
    transfers_.receive(from, reinterpret_cast<std::byte*>(values + part.first), bytes_of<Value>(part.count),
                       job_->tag(call));
  }

  template <class Value>
  [[nodiscard]] static std::size_t bytes_of(index count) {
    return static_cast<std::size_t>(count) * sizeof(Value);
  }
  [[nodiscard]] static std::size_t round_up(std::size_t bytes) { return (bytes + 63) / 64 * 64; }
  void reserve(std::size_t bytes) {
    if (bytes <= reserved_) return;
    reserved_ = 0;
    scratch_.reset();
    scratch_ = std::make_unique_for_overwrite<std::byte[]>(bytes);
    reserved_ = bytes;
  }

  MPI_Comm communicator_;
  std::shared_ptr<detail::MpiJob> job_;
  detail::MpiTransfers transfers_;
  std::unique_ptr<std::byte[]> scratch_;
  std::size_t reserved_ = 0;
  std::int64_t calls_ = 0;
};

}  // namespace comm
}  // namespace TESSERA_ABI
}  // namespace tessera
