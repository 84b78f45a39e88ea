// The thread of a store on all ranks but 0: it finds rank 0, exchanges blobs with it and watches it.
#pragma once

#include <sys/socket.h>

#include <cerrno>
#include <chrono>
#include <cstdint>
#include <optional>
#include <string>
#include <utility>

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

class StoreClient {
 public:
  StoreClient(const Place& place, const StoreSettings& settings, Mailbox& mailbox)
      : place_(place), settings_(settings), mailbox_(mailbox) {}

  // Returns when it is time to leave, or when rank 0 has left. Throws RankLost, or Error if rank 0 refused this rank.
  void run() {
    if (!connect()) return;
    Connection& rank_0 = connections_.front();
    const Packet beat = encode(Kind::beat, place_.rank);
    Clock::time_point next_beat = Clock::now();
    bool left = false;
    for (std::optional<Post> posted; !left && mailbox_.take_orders(posted);) {
      if (posted) rank_0.channel.send(encode(Kind::blob, place_.rank, posted->number, posted->blob));
      const Clock::time_point now = Clock::now(), silence = lost_at(rank_0, settings_);
      if (now >= silence) fail_silent(rank_0, settings_);
      if (now >= next_beat) {
        rank_0.channel.send(beat);
        next_beat = now + settings_.beat;
      }
      Channel::Over over = rank_0.channel.flush();
      watch_.clear();
      watch_.add(mailbox_.wake_up());
      watch_.add(rank_0.channel.descriptor(), rank_0.channel.has_to_send());
      if (!over) watch_.wait(earlier(next_beat, silence));
      // Frames that arrived before the connection broke may name the reason.
      if (over || watch_.ready(1))
        if (const auto end = rank_0.channel.receive([&](const Frame& frame) { return obey(frame, left); })) over = end;
      if (over && !left) fail_lost("rank 0 is lost: its connection at {} {}", rank_0.from, *over);
    }
  }

  [[nodiscard]] Connections& connections() noexcept { return connections_; }

 private:
  // False if rank 0 has left.
  bool obey(const Frame& frame, bool& left) {
    connections_.front().heard = Clock::now();
    switch (frame.kind) {
      case Kind::beat:
        return true;
      case Kind::blob:
        if (!mailbox_.put(frame.number, frame.rank, frame.bytes))
          fail_lost("rank 0 is lost: it sent rank {}'s blob of exchange {}, which was not due", frame.rank,
                    frame.number);
        return true;
      case Kind::lost:
        throw RankLost(printable(frame.bytes));
      case Kind::goodbye:
        mailbox_.note_goodbye();
        left = true;
        return false;
      default:
        fail_lost("rank 0 is lost: it sent a frame of kind {}, which it does not send to ranks",
                  static_cast<int>(frame.kind));
    }
  }

  // Tries until rank 0 says welcome. False when it is time to leave. Throws RankLost at the deadline, Error if rank 0
  // refuses this rank.
  bool connect() {
    const Clock::time_point end = Clock::now() + settings_.deadline;
    std::string why = "the deadline is too short to try";
    for (std::chrono::milliseconds pause{10}; Clock::now() < end;
         pause = earlier(2 * pause, std::chrono::milliseconds(1000))) {
      for (const Endpoint& endpoint : resolve(place_.address, place_.port, why))
        if (knock(endpoint, earlier(end, Clock::now() + settings_.hello), why)) return true;
      if (!rest(earlier(end, Clock::now() + pause))) return false;
    }
    fail_lost("rank {} found no rank 0 at {}:{} within {:.1f} s: {}", place_.rank, place_.address, place_.port,
              seconds(settings_.deadline), why);
  }

  // False if there was no welcome, and why.
  bool knock(const Endpoint& endpoint, Clock::time_point end, std::string& why) {
    require_token(endpoint, settings_.token);
    Descriptor socket = endpoint.socket();
    if (!socket.open() || (::connect(socket.get(), endpoint.address(), endpoint.size) != 0 && errno != EINPROGRESS)) {
      why = fmt::format("the connection to {} broke: {}", endpoint.text(), system_error());
      return false;
    }
    connections_.push_back({Channel(std::move(socket)), endpoint.text(), Clock::now()});
    Channel& channel = connections_.front().channel;
    channel.send(encode(Kind::hello, place_.rank, static_cast<std::uint32_t>(place_.size), settings_.token));
    if (const auto over = await_welcome(channel, end)) {
      why = fmt::format("the connection to {} {}", endpoint.text(), *over);
      connections_.clear();
      return false;
    }
    connections_.front().rank = 0;
    connections_.front().heard = Clock::now();
    return true;
  }

  Channel::Over await_welcome(Channel& channel, Clock::time_point end) {
    bool welcome = false;
    Channel::Over over;
    while (!over && !welcome) {
      watch_.clear();
      watch_.add(mailbox_.wake_up());
      watch_.add(channel.descriptor(), channel.has_to_send());
      watch_.wait(end);
      if (watch_.ready(1)) over = channel.flush();
      if (watch_.ready(1) && !over)
        over = channel.receive([&](const Frame& frame) {
          if (frame.kind == Kind::refused)
            fail("rank 0 at {}:{} refused rank {} of {}: {}", place_.address, place_.port, place_.rank, place_.size,
                 printable(frame.bytes));
          if (frame.kind == Kind::lost) throw RankLost(printable(frame.bytes));
          welcome = frame.kind == Kind::welcome;
          return false;
        });
      if (!over && !welcome && Clock::now() >= end) over = "brought no answer";
      if (!over && !welcome && mailbox_.must_leave()) over = "was given up";
    }
    return over;
  }

  // False when it is time to leave.
  bool rest(Clock::time_point until) {
    for (; !mailbox_.must_leave(); watch_.wait(until)) {
      if (Clock::now() >= until) return true;
      watch_.clear();
      watch_.add(mailbox_.wake_up());
    }
    return false;
  }

  const Place& place_;
  const StoreSettings& settings_;
  Mailbox& mailbox_;
  Connections connections_;  // rank 0, once it has let this rank in
  Watch watch_;
};

}  // namespace comm::detail
}  // namespace TESSERA_ABI
}  // namespace tessera
