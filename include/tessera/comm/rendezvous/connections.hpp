// The connections of a store's thread. Rank 0 has one for each other rank, and for peers that have not said hello;
// other ranks have one, to rank 0.
#pragma once

#include <chrono>
#include <list>
#include <string>

#include "tessera/comm/communicator.hpp"
#include "tessera/comm/rendezvous/settings.hpp"
#include "tessera/comm/rendezvous/wire.hpp"

namespace tessera {
inline namespace TESSERA_ABI {
namespace comm::detail {

inline constexpr int beats_to_lose = 5;

// The other end of a connection.
struct Connection {
  Channel channel;
  std::string from;
  Clock::time_point heard;  // a stranger: when it came
  int rank = -1;            // -1: a stranger
  bool refused = false;
};

// The time of silence after which a rank counts as lost.
[[nodiscard]] inline Clock::time_point lost_at(const Connection& connection, const StoreSettings& settings) {
  return connection.heard + beats_to_lose * settings.beat;
}
[[noreturn]] inline void fail_silent(const Connection& connection, const StoreSettings& settings) {
  fail_lost("rank {} is lost: no sign of life from {} for {:.1f} s", connection.rank, connection.from,
            seconds(beats_to_lose * settings.beat));
}

using Connections = std::list<Connection>;

// The last frame from this rank to others: what happened, or goodbye if that is empty.
inline void send_final_status(Connections& connections, int rank, const std::string& final_status) {
  connections.remove_if([](const Connection& connection) { return connection.rank < 0; });
  const Packet packet =
      final_status.empty() ? encode(Kind::goodbye, rank) : encode_text(Kind::lost, rank, final_status);
  for (Connection& connection : connections) {
    connection.channel.send(packet);
    connection.rank = -1;
    connection.refused = true;
  }
  connections.remove_if([](Connection& connection) { return !connection.channel.drain(); });
}

// Waits until all others have closed: closing a connection with unread bytes would discard the last frame.
inline void drain(Connections& connections) {
  constexpr std::chrono::milliseconds linger{2000};  // that a farewell may take
  const Clock::time_point end = Clock::now() + linger;
  for (Watch watch; !connections.empty() && Clock::now() < end;) {
    watch.clear();
    for (const Connection& connection : connections)
      watch.add(connection.channel.descriptor(), connection.channel.has_to_send());
    watch.wait(end);
    connections.remove_if([](Connection& connection) { return !connection.channel.drain(); });
  }
}

}  // namespace comm::detail
}  // namespace TESSERA_ABI
}  // namespace tessera
