// Rendezvous of ranks without MPI, over TCP: they exchange small blobs (NCCL's id, fingerprints) and watch each other
// for the rest of the job. Needs POSIX.
//
// Rank 0 listens at the place's address; every other rank keeps one connection to it. All of them must hold the same
// token of 128 bits. It keeps out other jobs and strangers who cannot listen to the network; the connection is not
// encrypted. Without a token ranks meet on one host only, at an address like 127.0.0.1.
#pragma once

#include <chrono>
#include <cstddef>
#include <exception>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <thread>
#include <type_traits>
#include <utility>
#include <vector>

#include "tessera/comm/communicator.hpp"
#include "tessera/comm/launch.hpp"
#include "tessera/comm/rendezvous/client.hpp"
#include "tessera/comm/rendezvous/connections.hpp"
#include "tessera/comm/rendezvous/mailbox.hpp"
#include "tessera/comm/rendezvous/server.hpp"
#include "tessera/comm/rendezvous/settings.hpp"
#include "tessera/core/threads.hpp"

namespace tessera {
inline namespace TESSERA_ABI {
namespace comm {

// One rank's end. Its thread does all the work, so that a busy rank does not look lost.
//
// A rank is lost when its connection ends without a goodbye or is silent for five beats; all ranks learn which one. The
// same happens if an exception destroys a store, or if a rank calls abort(). After that, at the deadline of an
// exchange, and if rank 0 refuses this rank, calls throw, waiting ones too, and the store's thread calls
// on_loss(message) once, unless this rank gave up itself. on_loss must not throw, nor destroy the store. Leaving with a
// goodbye is no loss, but exchanges that need the rank throw, and nobody watches once rank 0 has left.
class Store {
 public:
  using Blob = detail::Blob;
  static constexpr std::size_t largest_blob = detail::largest_blob;  // bytes

  // Returns at once; the first exchange waits until all ranks have come. Throws Error if the place or a time cannot be,
  // or if rank 0 cannot listen there. Rank 0's port 0 takes a free one.
  explicit Store(Place place, StoreSettings settings = {}, std::function<void(const std::string&)> on_loss = {})
      : place_(std::move(place)),
        settings_(std::move(settings)),
        on_loss_(std::move(on_loss)),
        mailbox_(place_.rank, place_.size, settings_.deadline) {
    detail::check_given(place_);
    if (settings_.beat.count() <= 0 || settings_.hello.count() <= 0)
      fail("a store's beat of {} ms and hello of {} ms must be longer than 0", settings_.beat.count(),
           settings_.hello.count());
    if (place_.size == 1) return;
    if (place_.address.empty())
      fail("rank {} of {} does not know where rank 0 is; set MASTER_ADDR and MASTER_PORT", place_.rank, place_.size);
    if (place_.rank == 0)
      serve(std::make_unique<detail::StoreServer>(place_, settings_, mailbox_));
    else if (place_.port == 0)
      fail("rank {} of {} does not know rank 0's port; set MASTER_PORT", place_.rank, place_.size);
    else
      serve(std::make_unique<detail::StoreClient>(place_, settings_, mailbox_));
  }
  Store(const Store&) = delete;
  Store& operator=(const Store&) = delete;
  // Says goodbye, or what happened if an exception destroys it. Waits at most 2 s for the others to hear it.
  ~Store() {
    if (!thread_.joinable()) return;
    if (std::uncaught_exceptions() > exceptions_) abort("it ended with an exception");
    mailbox_.leave();
    thread_.join();
  }

  [[nodiscard]] int rank() const noexcept { return place_.rank; }
  [[nodiscard]] int size() const noexcept { return place_.size; }
  // The port on which rank 0 listens.
  [[nodiscard]] int port() const noexcept { return place_.port; }

  // Every rank's blob, in the order of ranks, when all have called it. Blobs may differ in size. By one thread at a
  // time. Throws RankLost, or Error if a blob is larger than largest_blob or if rank 0 refused this rank.
  [[nodiscard]] std::vector<Blob> exchange(std::span<const std::byte> mine) {
    if (mine.size() > largest_blob) fail("a blob of {} bytes, but a store takes at most {}", mine.size(), largest_blob);
    return mailbox_.exchange(mine);
  }

  // The blob of rank 0; blobs of other ranks are ignored. Otherwise like exchange, and counted in the same order.
  [[nodiscard]] Blob broadcast(std::span<const std::byte> blob) {
    return std::move(exchange(place_.rank == 0 ? blob : std::span<const std::byte>{}).front());
  }

  // Tells all ranks that this one cannot go on, and why; from any thread. Later calls of this rank throw.
  void abort(std::string_view why) { mailbox_.give_up(fmt::format("rank {} gave up: {}", place_.rank, why)); }

 private:
  // Half: a StoreServer or a StoreClient.
  template <class Half>
  void serve(std::unique_ptr<Half> half) {
    thread_ = start_thread("the rendezvous", 1, [this, half = std::move(half)] {
      std::string failure;
      bool refused = false;
      try {
        half->run();
      } catch (const RankLost& error) {
        failure = error.what();
      } catch (const std::exception& error) {
        failure = error.what();
        refused = true;
      }
      const bool first = !failure.empty() && mailbox_.note(failure, refused);
      const std::string final_status = mailbox_.final_status();
      attempt([&] { detail::send_final_status(half->connections(), place_.rank, final_status); });
      if (first && on_loss_) on_loss_(failure);
      if constexpr (std::is_same_v<Half, detail::StoreServer>) attempt([&] { half->tell_newcomers(final_status); });
      attempt([&] { detail::drain(half->connections()); });
    });
  }

  // Calls act() and ignores its exceptions: the end of a job does not depend on it.
  template <class Act>
  static void attempt(Act&& act) {
    try {
      act();
    } catch (const std::exception&) {
    }
  }

  Place place_;
  const StoreSettings settings_;
  const std::function<void(const std::string&)> on_loss_;
  const int exceptions_ = std::uncaught_exceptions();
  detail::Mailbox mailbox_;
  std::thread thread_;
};

}  // namespace comm
}  // namespace TESSERA_ABI
}  // namespace tessera
