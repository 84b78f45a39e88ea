// The thread of a store on rank 0: it listens, admits ranks, gathers their blobs and watches them.
#pragma once

#include <sys/socket.h>

#include <algorithm>
#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "tessera/comm/communicator.hpp"
#include "tessera/comm/launch.hpp"
#include "tessera/comm/rendezvous/connections.hpp"
#include "tessera/comm/rendezvous/mailbox.hpp"
#include "tessera/comm/rendezvous/settings.hpp"
#include "tessera/comm/rendezvous/wire.hpp"
#include "tessera/core/errors.hpp"

namespace tessera {
inline namespace TESSERA_ABI {
namespace comm::detail {

class StoreServer {
 public:
  // Listens. place.port, if that is 0, becomes the port that the system gave.
  StoreServer(Place& place, const StoreSettings& settings, Mailbox& mailbox)
      : place_(place), settings_(settings), mailbox_(mailbox) {
    listen();
    place.port = place_.port;
  }

  // Returns when it is time to leave. Throws RankLost.
  void run() {
    const Packet beat = encode(Kind::beat, 0);
    Clock::time_point next_beat = Clock::now();
    for (std::optional<Post> posted; mailbox_.take_orders(posted);) {
      const Clock::time_point now = Clock::now();
      if (posted) gather(0, posted->blob, now);
      if (now >= next_beat) {
        for (Connection& connection : connections_)
          if (connection.rank > 0) connection.channel.send(beat);
        next_beat = now + settings_.beat;
      }
      check_round(now);
      serve_connections(now);
      watch_guests(next_event(next_beat));
    }
  }

  // After a failure, ranks that come late are told the reason until the store is destroyed.
  void tell_newcomers(const std::string& why) {
    ended_ = why;
    while (!ended_.empty() && !mailbox_.destroyed()) {
      const Clock::time_point now = Clock::now();
      serve_connections(now);
      watch_guests(now + settings_.hello);
    }
    listener_ = Descriptor();
  }

  [[nodiscard]] Connections& connections() noexcept { return connections_; }

 private:
  enum class Presence { absent, here, left };

  void listen() {
    const std::string& host = settings_.listen.empty() ? place_.address : settings_.listen;
    std::string why;
    for (Endpoint& endpoint : resolve(host, place_.port, why)) {
      require_token(endpoint, settings_.token);
      listener_ = endpoint.socket();
      constexpr int on = 1;
      ::setsockopt(listener_.get(), SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
      if (listener_.open() && ::bind(listener_.get(), endpoint.address(), endpoint.size) == 0 &&
          ::listen(listener_.get(), SOMAXCONN) == 0 &&
          ::getsockname(listener_.get(), endpoint.address(), &endpoint.size) == 0) {
        place_.port = endpoint.port();
        listens_ = endpoint.text();
        return;
      }
      why = fmt::format("{}: {}", endpoint.text(), system_error());
    }
    fail("rank 0 cannot listen: {}; MASTER_ADDR must be an address of rank 0's host, and MASTER_PORT free", why);
  }

  void watch_guests(Clock::time_point until) {
    watch_.clear();
    watch_.add(mailbox_.wake_up());
    watch_.add(listener_.get());
    for (const Connection& connection : connections_)
      watch_.add(connection.channel.descriptor(), connection.channel.has_to_send());
    watch_.wait(until);
    listen_to_guests();
    if (watch_.ready(1)) admit();
  }

  [[nodiscard]] Clock::time_point next_event(Clock::time_point next_beat) const {
    Clock::time_point next = next_beat;
    if (gathering_.count > 0) next = earlier(next, gathering_since_ + settings_.deadline);
    for (const Connection& connection : connections_)
      next = earlier(next, connection.rank < 0 ? connection.heard + settings_.hello : lost_at(connection, settings_));
    return next;
  }

  void listen_to_guests() {
    const Clock::time_point now = Clock::now();
    std::size_t at = 2;
    for (auto connection = connections_.begin(); connection != connections_.end(); ++at) {
      const auto one = connection++;
      if (!watch_.ready(at)) continue;
      if (one->refused) {
        if (!one->channel.drain()) connections_.erase(one);
        continue;
      }
      const auto over = one->channel.receive([&](const Frame& frame) { return hear(*one, frame, now); });
      if (one->rank > 0 && state(one->rank) == Presence::left)
        connections_.erase(one);
      else if (over && one->rank > 0)
        fail_lost("rank {} is lost: its connection from {} {}", one->rank, one->from, *over);
      else if (over)
        refuse(*one, fmt::format("the connection {}", *over));
    }
  }

  Presence& state(int rank) { return presence_[static_cast<std::size_t>(rank)]; }

  // False if no more frames of this connection are to be heard.
  bool hear(Connection& connection, const Frame& frame, Clock::time_point now) {
    if (connection.rank < 0) return welcome(connection, frame, now);
    connection.heard = now;
    switch (frame.kind) {
      case Kind::beat:
        return true;
      case Kind::blob:
        if (frame.number != gathered_ + 1 || !gather(static_cast<std::uint32_t>(connection.rank), frame.bytes, now))
          fail_lost("rank {} is lost: it takes part in exchange {} while exchange {} is under way", connection.rank,
                    frame.number, gathered_ + 1);
        return true;
      case Kind::lost:
        throw RankLost(printable(frame.bytes));
      case Kind::goodbye:
        state(connection.rank) = Presence::left;
        return false;
      default:
        fail_lost("rank {} is lost: it sent a frame of kind {}, which ranks do not send", connection.rank,
                  static_cast<int>(frame.kind));
    }
  }

  bool welcome(Connection& connection, const Frame& hello, Clock::time_point now) {
    const auto size = static_cast<std::uint32_t>(place_.size);
    if (hello.kind != Kind::hello)
      refuse(connection, "it did not say hello");
    else if (!same_token(settings_.token, hello.bytes))
      refuse(connection, "its token is not this job's; all ranks must have the same TESSERA_TOKEN");
    else if (hello.number != size)
      refuse(connection, fmt::format("it is of a job of {} ranks, and this job has {}", hello.number, size));
    else if (hello.rank == 0 || hello.rank >= size)
      refuse(connection, fmt::format("it says that it is rank {} of {}", hello.rank, size));
    else if (const int rank = static_cast<int>(hello.rank); state(rank) != Presence::absent)
      refuse(connection, fmt::format("rank {} came before; two processes have the same rank", rank));
    else if (!ended_.empty()) {
      connection.refused = true;
      connection.channel.send(encode_text(Kind::lost, 0, ended_));
    } else {
      state(rank) = Presence::here;
      connection.rank = rank;
      connection.heard = now;
      connection.channel.send(encode(Kind::welcome, 0));
    }
    return !connection.refused;
  }

  void refuse(Connection& connection, const std::string& why) {
    ++refusals_;
    last_refusal_ = fmt::format("{}: {}", connection.from, why);
    connection.refused = true;
    connection.channel.send(encode_text(Kind::refused, 0, why));
  }

  // Accepts one waiting connection. The number of connections over time is not limited, but at most two per rank are
  // open at a time; the oldest one without a hello is closed, since ranks say hello at once.
  void admit() {
    Endpoint from;
    Descriptor socket(::accept4(listener_.get(), from.address(), &from.size, SOCK_CLOEXEC | SOCK_NONBLOCK));
    const bool full = !socket.open() && (errno == EMFILE || errno == ENFILE);
    if (!socket.open() && !full) return;
    const auto stranger =
        std::ranges::find_if(connections_, [](const Connection& connection) { return connection.rank < 0; });
    if (full && stranger == connections_.end())
      fail_lost("rank 0 cannot take the connections of {} ranks: {}; raise `ulimit -n`", place_.size, system_error());
    if (full || connections_.size() >= 2 * presence_.size()) connections_.erase(stranger);
    if (!full) connections_.push_back({Channel(std::move(socket)), from.text(), Clock::now()});
  }

  // Sends pending frames, and finds ranks that have been silent for too long.
  void serve_connections(Clock::time_point now) {
    for (auto connection = connections_.begin(); connection != connections_.end();) {
      const auto one = connection++;
      if (one->rank > 0) {
        if (now >= lost_at(*one, settings_)) fail_silent(*one, settings_);
        if (const auto over = one->channel.flush())
          fail_lost("rank {} is lost: its connection from {} {}", one->rank, one->from, *over);
      } else if (now >= one->heard + settings_.hello || (one->refused && !one->channel.drain())) {
        connections_.erase(one);
      }
    }
  }

  // False if the rank's blob does not belong here.
  bool gather(std::uint32_t rank, std::span<const std::byte> blob, Clock::time_point now) {
    if (gathering_.count == 0) gathering_since_ = now;
    if (!gathering_.put(rank, blob)) return false;
    if (!gathering_.complete()) return true;
    ++gathered_;
    for (int r = 0; r < place_.size; ++r) {
      const Packet packet = encode(Kind::blob, r, gathered_, gathering_.blobs[static_cast<std::size_t>(r)]);
      for (Connection& connection : connections_)
        if (connection.rank > 0) connection.channel.send(packet);
    }
    mailbox_.complete(std::exchange(gathering_, Round(place_.size)));
    return true;
  }

  // Reports a loss if an exchange cannot end because a rank left or is late.
  void check_round(Clock::time_point now) {
    if (gathering_.count == 0) return;
    std::string left, late, absent;
    for (int r = 0; r < place_.size; ++r)
      if (!gathering_.here[static_cast<std::size_t>(r)]) {
        std::string& list = state(r) == Presence::left ? left : r > 0 && state(r) == Presence::absent ? absent : late;
        list += fmt::format("{}{}", list.empty() ? "" : ", ", r);
      }
    if (!left.empty()) fail_lost("exchange {}: rank {} has said goodbye", gathered_ + 1, left);
    if (now < gathering_since_ + settings_.deadline) return;
    std::string why = fmt::format("exchange {}, after {:.1f} s:", gathered_ + 1, seconds(settings_.deadline));
    if (!absent.empty()) why += fmt::format(" rank {} never came to {}", absent, listens_);
    if (!late.empty()) why += fmt::format("{} rank {} did not take part", absent.empty() ? "" : ", and", late);
    if (refusals_ > 0) why += fmt::format("; connections refused: {}, the last from {}", refusals_, last_refusal_);
    throw RankLost(why);
  }

  Place place_;
  const StoreSettings& settings_;
  Mailbox& mailbox_;
  Descriptor listener_;
  std::string listens_;  // where
  Connections connections_;
  Watch watch_;
  std::vector<Presence> presence_ = std::vector<Presence>(static_cast<std::size_t>(place_.size), Presence::absent);
  Round gathering_{place_.size};
  std::uint32_t gathered_ = 0;  // rounds
  Clock::time_point gathering_since_{};
  int refusals_ = 0;
  std::string last_refusal_;
  std::string ended_;  // why; empty: it has not, or with a goodbye
};

}  // namespace comm::detail
}  // namespace TESSERA_ABI
}  // namespace tessera
