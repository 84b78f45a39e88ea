// The connections of a store's thread: rank 0 has one for each other rank, and for strangers; the others have one, to
// rank 0.
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
struct Guest {
  Channel channel;
  std::string from;
  Clock::time_point heard;  // a stranger: when it came
  int rank = -1;            // -1: a stranger
  bool refused = false;
};

// When a rank that stays silent counts as lost.
[[nodiscard]] inline Clock::time_point lost_at(const Guest& guest, const StoreSettings& settings) {
  return guest.heard + beats_to_lose * settings.beat;
}
[[noreturn]] inline void fail_silent(const Guest& guest, const StoreSettings& settings) {
  fail_lost("rank {} is lost: no sign of life from {} for {:.1f} s", guest.rank, guest.from,
            seconds(beats_to_lose * settings.beat));
}

using Guests = std::list<Guest>;

// The last that ranks hear of this one: what happened, or goodbye if that is empty.
inline void say_farewell(Guests& guests, int rank, const std::string& last_words) {
  guests.remove_if([](const Guest& guest) { return guest.rank < 0; });
  const Packet packet = last_words.empty() ? encode(Kind::goodbye, rank) : encode_text(Kind::lost, rank, last_words);
  for (Guest& guest : guests) {
    guest.channel.send(packet);
    guest.rank = -1;
    guest.refused = true;
  }
  guests.remove_if([](Guest& guest) { return !guest.channel.drain(); });
}

// Until all others have hung up: a connection that is closed with bytes unread takes its last words along.
inline void drain(Guests& guests) {
  constexpr std::chrono::milliseconds linger{2000};  // that a farewell may take
  const Clock::time_point end = Clock::now() + linger;
  for (Watch watch; !guests.empty() && Clock::now() < end;) {
    watch.clear();
    for (const Guest& guest : guests) watch.add(guest.channel.descriptor(), guest.channel.has_to_send());
    watch.wait(end);
    guests.remove_if([](Guest& guest) { return !guest.channel.drain(); });
  }
}

}  // namespace comm::detail
}  // namespace TESSERA_ABI
}  // namespace tessera
