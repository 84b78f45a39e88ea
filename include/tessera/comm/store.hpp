// Where ranks meet that no MPI brings together, over TCP: they exchange small blobs (NCCL's id, fingerprints) and watch
// each other for the rest of the job. POSIX.
//
// Rank 0 listens at the place's address; every other rank keeps one connection to it. All of them must hold the same
// token of 128 bits. It keeps out other jobs and strangers who cannot listen to the network; the connection is not
// encrypted. Without a token ranks meet on one host only, at an address like 127.0.0.1.
#pragma once

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <chrono>
#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <exception>
#include <functional>
#include <list>
#include <mutex>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <thread>
#include <utility>
#include <vector>

#include "tessera/comm/collective.hpp"
#include "tessera/comm/launch.hpp"
#include "tessera/comm/wire.hpp"

namespace tessera::inline TESSERA_ABI::comm {

using Token = std::array<std::byte, 16>;  // all zeros: none

namespace detail {

[[nodiscard]] inline Token parse_token(std::string_view text, const std::string& source) {
  const auto digit = [](char c) { return std::string_view("0123456789abcdef").find(c); };
  if (text.size() != 2 * Token{}.size() || text.find_first_not_of("0123456789abcdef") != std::string_view::npos)
    fail("{} does not hold 32 hexadecimal digits; make them with `openssl rand -hex 16`", source);
  Token token;
  for (std::size_t i = 0; i < token.size(); ++i)
    token[i] = static_cast<std::byte>(digit(text[2 * i]) * 16 + digit(text[2 * i + 1]));
  if (token == Token{}) fail("{} holds zeros; make a token with `openssl rand -hex 16`", source);
  return token;
}

[[nodiscard]] inline Token read_token_file(const std::string& path) {
  const Descriptor file(::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK));
  if (!file.open()) fail("{}: open failed: {}", path, system_error());
  struct stat status {};
  if (::fstat(file.get(), &status) != 0) fail("{}: fstat failed: {}", path, system_error());
  if (!S_ISREG(status.st_mode)) fail("{}: is not a regular file", path);
  if ((status.st_mode & 077U) != 0) fail("{}: holds a token, but others may read it; chmod 600 {}", path, path);
  std::array<char, 64> text;
  const ssize_t count = ::read(file.get(), text.data(), text.size());
  if (count < 0) fail("{}: read failed: {}", path, system_error());
  std::string_view digits(text.data(), static_cast<std::size_t>(count));
  while (digits.ends_with('\n') || digits.ends_with('\r')) digits.remove_suffix(1);
  return parse_token(digits, path);
}

// Takes the same time whatever the bytes are.
[[nodiscard]] inline bool same_token(const Token& token, std::span<const std::byte> other) {
  if (other.size() != token.size()) return false;
  volatile unsigned difference = 0;
  for (std::size_t i = 0; i < token.size(); ++i)
    difference = difference | std::to_integer<unsigned>(token[i] ^ other[i]);
  return difference == 0;
}

inline void require_token(const Endpoint& endpoint, const Token& token) {
  if (token == Token{} && !endpoint.loopback())
    fail(
        "{} can be reached from other hosts, so ranks must prove that they belong to this job; set TESSERA_TOKEN to "
        "the output of `openssl rand -hex 16`, the same for all ranks",
        endpoint.text());
}

}  // namespace detail

// The job's token: 32 hexadecimal digits in TESSERA_TOKEN, or in the file that TESSERA_TOKEN_FILE names, which only its
// owner may read. Zeros if neither is set. Throws Error, which never tells the token.
[[nodiscard]] inline Token read_token(const Lookup& lookup = environment) {
  const std::optional<std::string> text = lookup("TESSERA_TOKEN"), path = lookup("TESSERA_TOKEN_FILE");
  if (text && path) fail("TESSERA_TOKEN and TESSERA_TOKEN_FILE are both set; unset one");
  if (text) return detail::parse_token(*text, "TESSERA_TOKEN");
  return path ? detail::read_token_file(*path) : Token{};
}

struct StoreSettings {
  Token token{};
  std::string listen;                                     // where rank 0 listens, if that is not the place's address
  std::chrono::milliseconds deadline = default_deadline;  // for all ranks to come, and for every exchange
  std::chrono::milliseconds beat{1000};                   // every rank sends a sign of life so often
  std::chrono::milliseconds hello{5000};                  // a connection has so long to say who it is
};

// One rank's end. Its thread does all the work, so that a rank that computes is not taken for lost.
//
// A rank is lost when its connection ends without a goodbye, or when it is silent for five beats; all ranks learn which
// one it was. So they do if a store is destroyed by an exception, or if a rank calls abort(). Then, or if an exchange's
// deadline passes, or if rank 0 refuses this rank, calls throw, those that wait too, and on_loss(message) is called
// once, by the store's thread, unless it was this rank that gave up. It must not throw, nor destroy the store. To leave
// with a goodbye is no loss, but exchanges that need the rank throw, and nobody watches once rank 0 has left.
class Store {
 public:
  using Blob = std::vector<std::byte>;
  static constexpr std::size_t largest_blob = detail::largest_blob;  // bytes
  static constexpr int beats_to_lose = 5;

  // Returns at once; the first exchange waits until all ranks have come. Throws Error if the place or a time cannot be,
  // or if rank 0 cannot listen there. Rank 0's port 0 takes a free one.
  explicit Store(Place place, StoreSettings settings = {}, std::function<void(const std::string&)> on_loss = {})
      : place_(std::move(place)), settings_(std::move(settings)), on_loss_(std::move(on_loss)) {
    detail::check_given(place_);
    if (settings_.beat.count() <= 0 || settings_.hello.count() <= 0)
      fail("a store's beat of {} ms and hello of {} ms must be longer than 0", settings_.beat.count(),
           settings_.hello.count());
    if (place_.size == 1) return;
    if (place_.address.empty())
      fail("rank {} of {} does not know where rank 0 is; set MASTER_ADDR and MASTER_PORT", place_.rank, place_.size);
    if (place_.rank == 0)
      listen();
    else if (place_.port == 0)
      fail("rank {} of {} does not know rank 0's port; set MASTER_PORT", place_.rank, place_.size);
    thread_ = std::thread([this] { serve(); });
  }
  Store(const Store&) = delete;
  Store& operator=(const Store&) = delete;
  // Says goodbye, or what happened if an exception destroys it. Waits at most 2 s for the others to hear it.
  ~Store() {
    if (!thread_.joinable()) return;
    if (std::uncaught_exceptions() > exceptions_) abort("it ended with an exception");
    leave();
    thread_.join();
  }

  [[nodiscard]] int rank() const noexcept { return place_.rank; }
  [[nodiscard]] int size() const noexcept { return place_.size; }
  // Of rank 0: where it listens.
  [[nodiscard]] int port() const noexcept { return place_.port; }

  // Every rank's blob, in the order of ranks, when all have called it. Blobs may differ in size. By one thread at a
  // time. Throws RankLost, or Error if a blob is larger than largest_blob or if rank 0 refused this rank.
  [[nodiscard]] std::vector<Blob> exchange(std::span<const std::byte> mine) {
    if (mine.size() > largest_blob) fail("a blob of {} bytes, but a store takes at most {}", mine.size(), largest_blob);
    std::unique_lock lock(mutex_);
    check();
    if (place_.size == 1) return {Blob(mine.begin(), mine.end())};
    round_ = Round(place_.size);
    posted_ = Blob(mine.begin(), mine.end());
    ++rounds_;
    bell_.ring();
    // Rank 0 knows who is missing and says so at the deadline; one second is for its word to arrive.
    const auto over = [&] { return round_.complete() || !failure_.empty(); };
    if (!changed_.wait_for(lock, settings_.deadline + std::chrono::seconds(1), over))
      give_up(fmt::format("rank {} waited {:.1f} s for rank 0 in exchange {}", place_.rank,
                          detail::seconds(settings_.deadline), rounds_));
    if (!round_.complete()) check();
    return std::move(round_.blobs);
  }

  // Rank 0's blob; what others give is not looked at. For the rest like exchange, and one in their order.
  [[nodiscard]] Blob broadcast(std::span<const std::byte> blob) {
    return std::move(exchange(place_.rank == 0 ? blob : std::span<const std::byte>{}).front());
  }

  // Tells all ranks that this one cannot go on, and why; from any thread. Later calls of this rank throw.
  void abort(std::string_view why) {
    const std::lock_guard lock(mutex_);
    if (failure_.empty()) give_up(fmt::format("rank {} gave up: {}", place_.rank, why));
  }

 private:
  using Clock = detail::Clock;
  using Frame = detail::Frame;
  using Kind = detail::Kind;

  static constexpr std::chrono::milliseconds linger{2000};  // that a farewell may take

  // One exchange: the blobs that are here.
  struct Round {
    explicit Round(int ranks = 0) : blobs(static_cast<std::size_t>(ranks)), here(blobs.size()) {}

    // False if the rank's blob is here already, or if there is no such rank.
    bool put(std::uint32_t rank, std::span<const std::byte> blob) {
      if (rank >= blobs.size() || here[rank]) return false;
      here[rank] = true;
      ++count;
      blobs[rank].assign(blob.begin(), blob.end());
      return true;
    }
    [[nodiscard]] bool complete() const noexcept { return count == blobs.size() && count > 0; }

    std::vector<Blob> blobs;
    std::vector<bool> here;
    std::size_t count = 0;
  };

  // A connection to rank 0, as rank 0 sees it.
  struct Guest {
    detail::Channel channel;
    std::string from;
    Clock::time_point heard;  // a stranger: when it came
    int rank = -1;            // -1: a stranger
    bool refused = false;
  };
  enum class Presence { absent, here, left };

  // ---- any thread, with the mutex

  void check() const {
    if (failure_.empty()) return;
    if (refused_) throw Error(failure_);
    throw RankLost(failure_);
  }
  void give_up(std::string why) {
    failure_ = last_words_ = std::move(why);
    changed_.notify_all();
    bell_.ring();
  }
  void leave() {
    const std::lock_guard lock(mutex_);
    leaving_ = true;
    bell_.ring();
  }

  // ---- the store's thread

  void serve() {
    std::string failure;
    bool refused = false;
    try {
      place_.rank == 0 ? host() : visit();
    } catch (const RankLost& error) {
      failure = error.what();
    } catch (const std::exception& error) {
      failure = error.what();
      refused = true;
    }
    const bool first = !failure.empty() && note(failure, refused);
    attempt([&] { say_farewell(); });
    if (first && on_loss_) on_loss_(failure);
    attempt([&] { tell_newcomers(); });
    attempt([&] { drain(); });
    guests_.clear();
  }

  // What the end of a job can do without.
  template <class Act>
  static void attempt(Act&& act) {
    try {
      act();
    } catch (const std::exception&) {
    }
  }

  // False if this rank had given up before.
  bool note(const std::string& failure, bool refused) {
    const std::lock_guard lock(mutex_);
    if (!failure_.empty()) return false;
    failure_ = last_words_ = failure;
    refused_ = refused;
    changed_.notify_all();
    return true;
  }

  void say_farewell() {
    {
      const std::lock_guard lock(mutex_);
      ended_ = last_words_;
    }
    guests_.remove_if([](const Guest& guest) { return guest.rank < 0; });
    const detail::Packet packet = ended_.empty() ? detail::encode(Kind::goodbye, place_.rank)
                                                 : detail::encode_text(Kind::lost, place_.rank, ended_);
    for (Guest& guest : guests_) {
      guest.channel.send(packet);
      guest.rank = -1;
      guest.refused = true;
    }
    guests_.remove_if([](Guest& guest) { return !guest.channel.drain(); });
  }

  // After a failure, rank 0 tells those that come late, until the store is destroyed.
  void tell_newcomers() {
    while (listener_.open() && !ended_.empty() && !destroyed()) {
      const Clock::time_point now = Clock::now();
      tend_guests(now);
      watch_guests(now + settings_.hello);
    }
    listener_ = detail::Descriptor();
  }

  // Until all others have hung up: a connection that is closed with bytes unread takes its last words along.
  void drain() {
    const Clock::time_point end = Clock::now() + linger;
    while (!guests_.empty() && Clock::now() < end) {
      watch_.clear();
      for (const Guest& guest : guests_) watch_.add(guest.channel.descriptor(), guest.channel.has_to_send());
      watch_.wait(end);
      guests_.remove_if([](Guest& guest) { return !guest.channel.drain(); });
    }
  }

  // False when it is time to leave.
  bool take_orders(std::optional<Blob>& posted) {
    bell_.silence();
    const std::lock_guard lock(mutex_);
    posted = std::exchange(posted_, std::nullopt);
    return !leaving_ && failure_.empty();
  }

  bool destroyed() {
    bell_.silence();
    const std::lock_guard lock(mutex_);
    return leaving_;
  }

  // ---- rank 0

  void listen() {
    const std::string& host = settings_.listen.empty() ? place_.address : settings_.listen;
    std::string why;
    for (detail::Endpoint& endpoint : detail::resolve(host, place_.port, why)) {
      detail::require_token(endpoint, settings_.token);
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
      why = fmt::format("{}: {}", endpoint.text(), detail::system_error());
    }
    fail("rank 0 cannot listen: {}; MASTER_ADDR must be an address of rank 0's host, and MASTER_PORT free", why);
  }

  void host() {
    presence_.assign(static_cast<std::size_t>(place_.size), Presence::absent);
    gathering_ = Round(place_.size);
    const detail::Packet beat = detail::encode(Kind::beat, 0);
    Clock::time_point next_beat = Clock::now();
    for (std::optional<Blob> posted; take_orders(posted);) {
      const Clock::time_point now = Clock::now();
      if (posted) gather(0, *posted, now);
      if (now >= next_beat) {
        for (Guest& guest : guests_)
          if (guest.rank > 0) guest.channel.send(beat);
        next_beat = now + settings_.beat;
      }
      check_round(now);
      tend_guests(now);
      watch_guests(next_event(next_beat));
    }
  }

  void watch_guests(Clock::time_point until) {
    watch_.clear();
    watch_.add(bell_.descriptor());
    watch_.add(listener_.get());
    for (const Guest& guest : guests_) watch_.add(guest.channel.descriptor(), guest.channel.has_to_send());
    watch_.wait(until);
    listen_to_guests();
    if (watch_.ready(1)) admit();
  }

  [[nodiscard]] Clock::time_point next_event(Clock::time_point next_beat) const {
    Clock::time_point next = next_beat;
    if (gathering_.count > 0) next = detail::earlier(next, gathering_since_ + settings_.deadline);
    for (const Guest& guest : guests_)
      next = detail::earlier(next, guest.heard + (guest.rank < 0 ? settings_.hello : beats_to_lose * settings_.beat));
    return next;
  }

  void listen_to_guests() {
    const Clock::time_point now = Clock::now();
    std::size_t at = 2;
    for (auto guest = guests_.begin(); guest != guests_.end(); ++at) {
      const auto one = guest++;
      if (!watch_.ready(at)) continue;
      if (one->refused) {
        if (!one->channel.drain()) guests_.erase(one);
        continue;
      }
      const auto over = one->channel.receive([&](const Frame& frame) { return hear(*one, frame, now); });
      if (one->rank > 0 && state(one->rank) == Presence::left)
        guests_.erase(one);
      else if (over && one->rank > 0)
        fail_lost("rank {} is lost: its connection from {} {}", one->rank, one->from, *over);
      else if (over)
        refuse(*one, fmt::format("the connection {}", *over));
    }
  }

  Presence& state(int rank) { return presence_[static_cast<std::size_t>(rank)]; }

  // False if no more frames of this guest are to be heard.
  bool hear(Guest& guest, const Frame& frame, Clock::time_point now) {
    if (guest.rank < 0) return welcome(guest, frame, now);
    guest.heard = now;
    switch (frame.kind) {
      case Kind::beat:
        return true;
      case Kind::blob:
        if (frame.number != gathered_ + 1 || !gather(static_cast<std::uint32_t>(guest.rank), frame.bytes, now))
          fail_lost("rank {} is lost: it takes part in exchange {} while exchange {} is under way", guest.rank,
                    frame.number, gathered_ + 1);
        return true;
      case Kind::lost:
        throw RankLost(detail::printable(frame.bytes));
      case Kind::goodbye:
        state(guest.rank) = Presence::left;
        return false;
      default:
        fail_lost("rank {} is lost: it sent a frame of kind {}, which ranks do not send", guest.rank,
                  static_cast<int>(frame.kind));
    }
  }

  bool welcome(Guest& guest, const Frame& hello, Clock::time_point now) {
    const auto size = static_cast<std::uint32_t>(place_.size);
    if (hello.kind != Kind::hello)
      refuse(guest, "it did not say hello");
    else if (!detail::same_token(settings_.token, hello.bytes))
      refuse(guest, "its token is not this job's; all ranks must have the same TESSERA_TOKEN");
    else if (hello.number != size)
      refuse(guest, fmt::format("it is of a job of {} ranks, and this job has {}", hello.number, size));
    else if (hello.rank == 0 || hello.rank >= size)
      refuse(guest, fmt::format("it says that it is rank {} of {}", hello.rank, size));
    else if (const int rank = static_cast<int>(hello.rank); state(rank) != Presence::absent)
      refuse(guest, fmt::format("rank {} came before; two processes have the same rank", rank));
    else if (!ended_.empty()) {
      guest.refused = true;
      guest.channel.send(detail::encode_text(Kind::lost, 0, ended_));
    } else {
      state(rank) = Presence::here;
      guest.rank = rank;
      guest.heard = now;
      guest.channel.send(detail::encode(Kind::welcome, 0));
    }
    return !guest.refused;
  }

  void refuse(Guest& guest, const std::string& why) {
    ++refusals_;
    last_refusal_ = fmt::format("{}: {}", guest.from, why);
    guest.refused = true;
    guest.channel.send(detail::encode_text(Kind::refused, 0, why));
  }

  // Takes one of those who wait for a connection. Strangers come and go without limit, but at most two connections for
  // each rank are here at a time; the stranger that came first gives way: ranks say hello at once.
  void admit() {
    detail::Endpoint from;
    detail::Descriptor socket(::accept4(listener_.get(), from.address(), &from.size, SOCK_CLOEXEC | SOCK_NONBLOCK));
    const bool full = !socket.open() && (errno == EMFILE || errno == ENFILE);
    if (!socket.open() && !full) return;
    const auto stranger = std::ranges::find_if(guests_, [](const Guest& guest) { return guest.rank < 0; });
    if (full && stranger == guests_.end())
      fail_lost("rank 0 cannot take the connections of {} ranks: {}; raise `ulimit -n`", place_.size,
                detail::system_error());
    if (full || guests_.size() >= 2 * presence_.size()) guests_.erase(stranger);
    if (!full) guests_.push_back({detail::Channel(std::move(socket)), from.text(), Clock::now()});
  }

  // Sends what is to be sent, and finds those that have been silent for too long.
  void tend_guests(Clock::time_point now) {
    for (auto guest = guests_.begin(); guest != guests_.end();) {
      const auto one = guest++;
      if (one->rank > 0) {
        if (const auto silence = beats_to_lose * settings_.beat; now >= one->heard + silence)
          fail_lost("rank {} is lost: no sign of life from {} for {:.1f} s", one->rank, one->from,
                    detail::seconds(silence));
        if (const auto over = one->channel.flush())
          fail_lost("rank {} is lost: its connection from {} {}", one->rank, one->from, *over);
      } else if (now >= one->heard + settings_.hello || (one->refused && !one->channel.drain())) {
        guests_.erase(one);
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
      const detail::Packet packet =
          detail::encode(Kind::blob, r, gathered_, gathering_.blobs[static_cast<std::size_t>(r)]);
      for (Guest& guest : guests_)
        if (guest.rank > 0) guest.channel.send(packet);
    }
    const std::lock_guard lock(mutex_);
    round_ = std::exchange(gathering_, Round(place_.size));
    changed_.notify_all();
    return true;
  }

  // An exchange that cannot end, because somebody left or is late, is a loss.
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
    std::string why = fmt::format("exchange {}, after {:.1f} s:", gathered_ + 1, detail::seconds(settings_.deadline));
    if (!absent.empty()) why += fmt::format(" rank {} never came to {}", absent, listens_);
    if (!late.empty()) why += fmt::format("{} rank {} did not take part", absent.empty() ? "" : ", and", late);
    if (refusals_ > 0) why += fmt::format("; connections refused: {}, the last from {}", refusals_, last_refusal_);
    throw RankLost(why);
  }

  // ---- all other ranks

  void visit() {
    if (!connect()) return;
    Guest& rank_0 = guests_.front();
    const detail::Packet beat = detail::encode(Kind::beat, place_.rank);
    Clock::time_point next_beat = Clock::now();
    bool left = false;
    for (std::optional<Blob> posted; !left && take_orders(posted);) {
      if (posted) {
        const std::lock_guard lock(mutex_);
        rank_0.channel.send(detail::encode(Kind::blob, place_.rank, rounds_, *posted));
      }
      const Clock::time_point now = Clock::now(), silence = rank_0.heard + beats_to_lose * settings_.beat;
      if (now >= silence)
        fail_lost("rank 0 is lost: no sign of life from {} for {:.1f} s", rank_0.from,
                  detail::seconds(beats_to_lose * settings_.beat));
      if (now >= next_beat) {
        rank_0.channel.send(beat);
        next_beat = now + settings_.beat;
      }
      detail::Channel::Over over = rank_0.channel.flush();
      watch_.clear();
      watch_.add(bell_.descriptor());
      watch_.add(rank_0.channel.descriptor(), rank_0.channel.has_to_send());
      if (!over) watch_.wait(detail::earlier(next_beat, silence));
      // What arrived before the connection broke may say why.
      if (over || watch_.ready(1))
        if (const auto end = rank_0.channel.receive([&](const Frame& frame) { return obey(frame, left); })) over = end;
      if (over && !left) fail_lost("rank 0 is lost: its connection at {} {}", rank_0.from, *over);
    }
  }

  // False if rank 0 has left.
  bool obey(const Frame& frame, bool& left) {
    guests_.front().heard = Clock::now();
    switch (frame.kind) {
      case Kind::beat:
        return true;
      case Kind::blob: {
        const std::lock_guard lock(mutex_);
        if (frame.number != rounds_ || !round_.put(frame.rank, frame.bytes))
          fail_lost("rank 0 is lost: it sent rank {}'s blob of exchange {} in exchange {}", frame.rank, frame.number,
                    rounds_);
        if (round_.complete()) changed_.notify_all();
        return true;
      }
      case Kind::lost:
        throw RankLost(detail::printable(frame.bytes));
      case Kind::goodbye: {
        const std::lock_guard lock(mutex_);
        if (failure_.empty()) failure_ = "rank 0 has said goodbye";
        changed_.notify_all();
        left = true;
        return false;
      }
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
         pause = detail::earlier(2 * pause, std::chrono::milliseconds(1000))) {
      for (const detail::Endpoint& endpoint : detail::resolve(place_.address, place_.port, why))
        if (knock(endpoint, detail::earlier(end, Clock::now() + settings_.hello), why)) return true;
      if (!rest(detail::earlier(end, Clock::now() + pause))) return false;
    }
    fail_lost("rank {} found no rank 0 at {}:{} within {:.1f} s: {}", place_.rank, place_.address, place_.port,
              detail::seconds(settings_.deadline), why);
  }

  // False if there was no welcome, and why.
  bool knock(const detail::Endpoint& endpoint, Clock::time_point end, std::string& why) {
    detail::require_token(endpoint, settings_.token);
    detail::Descriptor socket = endpoint.socket();
    if (!socket.open() || (::connect(socket.get(), endpoint.address(), endpoint.size) != 0 && errno != EINPROGRESS)) {
      why = fmt::format("the connection to {} broke: {}", endpoint.text(), detail::system_error());
      return false;
    }
    guests_.push_back({detail::Channel(std::move(socket)), endpoint.text(), Clock::now()});
    detail::Channel& channel = guests_.front().channel;
    channel.send(detail::encode(Kind::hello, place_.rank, static_cast<std::uint32_t>(place_.size), settings_.token));
    if (const auto over = await_welcome(channel, end)) {
      why = fmt::format("the connection to {} {}", endpoint.text(), *over);
      guests_.clear();
      return false;
    }
    guests_.front().rank = 0;
    guests_.front().heard = Clock::now();
    return true;
  }

  detail::Channel::Over await_welcome(detail::Channel& channel, Clock::time_point end) {
    bool welcome = false;
    detail::Channel::Over over;
    while (!over && !welcome) {
      watch_.clear();
      watch_.add(bell_.descriptor());
      watch_.add(channel.descriptor(), channel.has_to_send());
      watch_.wait(end);
      if (watch_.ready(1)) over = channel.flush();
      if (watch_.ready(1) && !over)
        over = channel.receive([&](const Frame& frame) {
          if (frame.kind == Kind::refused)
            fail("rank 0 at {}:{} refused rank {} of {}: {}", place_.address, place_.port, place_.rank, place_.size,
                 detail::printable(frame.bytes));
          if (frame.kind == Kind::lost) throw RankLost(detail::printable(frame.bytes));
          welcome = frame.kind == Kind::welcome;
          return false;
        });
      if (!over && !welcome && Clock::now() >= end) over = "brought no answer";
      if (!over && !welcome && must_leave()) over = "was given up";
    }
    return over;
  }

  // False when it is time to leave.
  bool rest(Clock::time_point until) {
    for (; !must_leave(); watch_.wait(until)) {
      if (Clock::now() >= until) return true;
      watch_.clear();
      watch_.add(bell_.descriptor());
    }
    return false;
  }

  bool must_leave() {
    bell_.silence();
    const std::lock_guard lock(mutex_);
    return leaving_ || !failure_.empty();
  }

  // Before the thread starts, then constant.
  Place place_;
  const StoreSettings settings_;
  const std::function<void(const std::string&)> on_loss_;
  const int exceptions_ = std::uncaught_exceptions();
  detail::Descriptor listener_;
  std::string listens_;  // where

  // Between calls and the thread.
  std::mutex mutex_;
  std::condition_variable changed_;  // the round is complete, or there is a failure
  detail::Bell bell_;                // there is something to post, or it is time to leave
  Round round_;
  std::optional<Blob> posted_;
  std::uint32_t rounds_ = 0;  // that this rank began
  std::string failure_;       // what calls throw; empty: they do not
  std::string last_words_;    // for the others; empty: goodbye
  bool refused_ = false, leaving_ = false;

  // The thread's. Of ranks other than 0, the one guest is rank 0.
  std::list<Guest> guests_;
  detail::Watch watch_;
  std::vector<Presence> presence_;
  Round gathering_;
  std::uint32_t gathered_ = 0;  // rounds
  Clock::time_point gathering_since_{};
  int refusals_ = 0;
  std::string last_refusal_;
  std::string ended_;  // why; empty: it has not, or with a goodbye

  std::thread thread_;
};

}  // namespace tessera::inline TESSERA_ABI::comm
