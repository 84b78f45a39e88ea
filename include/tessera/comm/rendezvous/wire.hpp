// A store's sockets and frames: POSIX.
#pragma once

#include <fcntl.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <deque>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "tessera/core/abi.hpp"
#include "tessera/core/errors.hpp"

namespace tessera {
inline namespace TESSERA_ABI {
namespace comm::detail {

using Clock = std::chrono::steady_clock;
using Blob = std::vector<std::byte>;

[[nodiscard]] inline std::string system_error() {
  return std::strerror(errno);
}

// A text from another process; its control characters become '?', so that a terminal can show it.
[[nodiscard]] inline std::string printable(std::span<const std::byte> bytes) {
  std::string text;
  for (const std::byte byte : bytes) {
    const auto letter = static_cast<char>(byte);
    text += static_cast<unsigned char>(letter) < 32 || letter == 127 ? '?' : letter;
  }
  return text;
}

[[nodiscard]] inline double seconds(std::chrono::milliseconds time) {
  return std::chrono::duration<double>(time).count();
}

template <class Time>
[[nodiscard]] Time earlier(Time one, Time other) {
  return one < other ? one : other;
}

// An owned file descriptor.
class Descriptor {
 public:
  explicit Descriptor(int descriptor = -1) noexcept : descriptor_(descriptor) {}
  Descriptor(Descriptor&& other) noexcept : descriptor_(std::exchange(other.descriptor_, -1)) {}
  Descriptor& operator=(Descriptor&& other) noexcept {
    std::swap(descriptor_, other.descriptor_);
    return *this;
  }
  ~Descriptor() {
    if (descriptor_ >= 0) ::close(descriptor_);
  }

  [[nodiscard]] int get() const noexcept { return descriptor_; }
  [[nodiscard]] bool open() const noexcept { return descriptor_ >= 0; }

 private:
  int descriptor_;
};

// A socket address, to bind or to connect to.
struct Endpoint {
  sockaddr_storage storage{};
  socklen_t size = sizeof(sockaddr_storage);

  [[nodiscard]] sockaddr* address() noexcept { return static_cast<sockaddr*>(static_cast<void*>(&storage)); }
  [[nodiscard]] const sockaddr* address() const noexcept {
    return static_cast<const sockaddr*>(static_cast<const void*>(&storage));
  }
  // A socket of the address's family. Not open, with errno, if the machine does not support it.
  [[nodiscard]] Descriptor socket() const {
    return Descriptor(::socket(storage.ss_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  }

  // As "127.0.0.1:29500" or "[::1]:29500".
  [[nodiscard]] std::string text() const {
    char host[NI_MAXHOST], service[NI_MAXSERV];
    if (::getnameinfo(address(), size, host, sizeof host, service, sizeof service, NI_NUMERICHOST | NI_NUMERICSERV) !=
        0)
      return "an address without a name";
    return storage.ss_family == AF_INET6 ? fmt::format("[{}]:{}", host, service) : fmt::format("{}:{}", host, service);
  }
  [[nodiscard]] int port() const {
    in_port_t port = 0;
    if (storage.ss_family == AF_INET6)
      port = static_cast<const sockaddr_in6*>(static_cast<const void*>(&storage))->sin6_port;
    else
      port = static_cast<const sockaddr_in*>(static_cast<const void*>(&storage))->sin_port;
    const auto bytes = std::as_bytes(std::span(&port, 1));
    return std::to_integer<int>(bytes[0]) * 256 + std::to_integer<int>(bytes[1]);
  }
  // True for a loopback address, which only processes of this host can reach.
  [[nodiscard]] bool loopback() const {
    const std::string name = text();
    return name.starts_with("127.") || name.starts_with("[::1]") || name.starts_with("[::ffff:127.");
  }
};

// The addresses of a name; none, with the reason, if it is not known (yet). It may take as long as the system's
// resolver.
[[nodiscard]] inline std::vector<Endpoint> resolve(const std::string& host, int port, std::string& why) {
  addrinfo hints{}, *found = nullptr;
  hints.ai_socktype = SOCK_STREAM;
  if (const int error = ::getaddrinfo(host.c_str(), std::to_string(port).c_str(), &hints, &found); error != 0) {
    why = fmt::format("'{}' is not known: {}", host, ::gai_strerror(error));
    return {};
  }
  std::vector<Endpoint> endpoints;
  for (const addrinfo* one = found; one != nullptr; one = one->ai_next) {
    Endpoint endpoint;
    endpoint.size = one->ai_addrlen;
    std::memcpy(&endpoint.storage, one->ai_addr, one->ai_addrlen);
    endpoints.push_back(endpoint);
  }
  ::freeaddrinfo(found);
  return endpoints;
}

// Wakes a thread that polls.
class WakeUp {
 public:
  WakeUp() {
    int ends[2];
    if (::pipe2(ends, O_CLOEXEC | O_NONBLOCK) != 0) fail("pipe2 failed: {}", system_error());
    heard_ = Descriptor(ends[0]);
    rung_ = Descriptor(ends[1]);
  }
  void ring() const noexcept {
    // If the pipe is full, the thread is woken already.
    while (::write(rung_.get(), "", 1) < 0 && errno == EINTR) continue;
  }
  void silence() const noexcept {
    char bytes[64];
    while (::read(heard_.get(), bytes, sizeof bytes) > 0) continue;
  }
  [[nodiscard]] int descriptor() const noexcept { return heard_.get(); }

 private:
  Descriptor heard_, rung_;
};

// The descriptors that poll() watches, and its results.
class Watch {
 public:
  void clear() { asked_.clear(); }
  void add(int descriptor, bool to_write = false) {
    asked_.push_back({descriptor, static_cast<short>(to_write ? POLLIN | POLLOUT : POLLIN), 0});
  }
  void wait(Clock::time_point until) {
    const auto left = std::chrono::ceil<std::chrono::milliseconds>(until - Clock::now()).count();
    const auto time = static_cast<int>(std::clamp<std::int64_t>(left, 0, 60'000));
    if (::poll(asked_.data(), asked_.size(), time) < 0) {
      if (errno != EINTR) fail("poll failed: {}", system_error());
      for (pollfd& one : asked_) one.revents = 0;
    }
  }
  [[nodiscard]] bool ready(std::size_t i) const { return asked_[i].revents != 0; }

 private:
  std::vector<pollfd> asked_;
};

// Frames: a header of six little-endian numbers, and at most 4096 bytes.
//   0  magic, 4 bytes    8  rank, 4 bytes: the sender's, or whose blob it is
//   4  version, 2        12 number, 4: hello: of ranks; blob: of the exchange
//   6  kind, 2           16 length, 4: of the bytes that follow
enum class Kind : std::uint16_t { hello = 1, welcome, refused, beat, blob, lost, goodbye };

inline constexpr std::uint32_t frame_magic = 0x41525354;  // "TSRA"
inline constexpr std::uint16_t frame_version = 1;
inline constexpr std::size_t header_bytes = 20, largest_blob = 4096;

struct Frame {
  Kind kind;
  std::uint32_t rank, number;
  std::span<const std::byte> bytes;
};

// Encoded, and shared by all connections that it goes to.
using Packet = std::shared_ptr<const Blob>;

[[nodiscard]] inline Packet encode(Kind kind, int rank, std::uint32_t number = 0,
                                   std::span<const std::byte> bytes = {}) {
  Blob packet;
  packet.reserve(header_bytes + bytes.size());
  const auto put = [&](std::uint32_t value, int size) {
    for (int i = 0; i < size; ++i) packet.push_back(static_cast<std::byte>(value >> (8 * i) & 255U));
  };
  put(frame_magic, 4);
  put(frame_version, 2);
  put(static_cast<std::uint32_t>(kind), 2);
  put(static_cast<std::uint32_t>(rank), 4);
  put(number, 4);
  put(static_cast<std::uint32_t>(bytes.size()), 4);
  packet.insert(packet.end(), bytes.begin(), bytes.end());
  return std::make_shared<const Blob>(std::move(packet));
}

// The same with a text, cut to what a frame holds.
[[nodiscard]] inline Packet encode_text(Kind kind, int rank, std::string_view text) {
  return encode(kind, rank, 0, std::as_bytes(std::span(text.substr(0, largest_blob))));
}

// A connection that carries frames and never blocks.
class Channel {
 public:
  using Over = std::optional<std::string>;  // why the connection is over, as "was closed"; empty: it is not

  explicit Channel(Descriptor socket) : socket_(std::move(socket)) {
    const int on = 1;
    ::setsockopt(socket_.get(), IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
  }

  [[nodiscard]] int descriptor() const noexcept { return socket_.get(); }
  [[nodiscard]] bool has_to_send() const noexcept { return !queue_.empty(); }
  void send(Packet packet) { queue_.push_back(std::move(packet)); }

  // Sends as much as the network takes.
  Over flush() {
    while (!queue_.empty()) {
      const std::span<const std::byte> rest = std::span(*queue_.front()).subspan(sent_);
      const ssize_t count = ::send(socket_.get(), rest.data(), rest.size(), MSG_NOSIGNAL);
      if (count < 0) {
        if (errno == EINTR) continue;
        return errno == EAGAIN ? Over{} : fmt::format("broke: {}", system_error());
      }
      sent_ += static_cast<std::size_t>(count);
      if (sent_ < queue_.front()->size()) continue;
      queue_.pop_front();
      sent_ = 0;
    }
    return {};
  }

  // Calls take(frame) for frames that are whole, until it returns false or no more are there.
  template <class Take>
  Over receive(Take&& take) {
    for (int frames = 0; frames < most_frames;) {
      const std::size_t wanted = filled_ < header_bytes ? header_bytes : header_bytes + number(16, 4);
      if (filled_ < wanted) {
        const ssize_t count = ::recv(socket_.get(), buffer_.data() + filled_, wanted - filled_, 0);
        if (count == 0) return "was closed";
        if (count < 0) {
          if (errno == EINTR) continue;
          return errno == EAGAIN ? Over{} : fmt::format("broke: {}", system_error());
        }
        filled_ += static_cast<std::size_t>(count);
        if (filled_ == header_bytes)
          if (Over wrong = check_header()) return wrong;
        continue;
      }
      filled_ = 0;
      ++frames;
      const Frame frame{static_cast<Kind>(number(6, 2)), number(8, 4), number(12, 4),
                        std::span(buffer_).first(wanted).subspan(header_bytes)};
      if (!take(frame)) return {};
    }
    return {};
  }

  // Says that nothing more will be sent; what the other end still sends is thrown away. False: it sends no more.
  bool drain() {
    if (flush()) return false;
    if (!queue_.empty()) return true;
    ::shutdown(socket_.get(), SHUT_WR);
    for (int i = 0; i < most_frames; ++i) {
      const ssize_t count = ::recv(socket_.get(), buffer_.data(), buffer_.size(), 0);
      if (count < 0 && (errno == EAGAIN || errno == EINTR)) return true;
      if (count <= 0) return false;
    }
    return true;
  }

 private:
  static constexpr int most_frames = 64;  // in a row, before other connections have their turn

  [[nodiscard]] std::uint32_t number(std::size_t at, std::size_t size) const {
    std::uint32_t value = 0;
    for (std::size_t i = 0; i < size; ++i) value |= std::to_integer<std::uint32_t>(buffer_[at + i]) << (8 * i);
    return value;
  }
  [[nodiscard]] Over check_header() const {
    if (number(0, 4) != frame_magic) return "does not speak our protocol";
    if (const std::uint32_t version = number(4, 2); version != frame_version)
      return fmt::format("speaks version {} of the protocol, not {}", version, frame_version);
    if (const std::uint32_t length = number(16, 4); length > largest_blob)
      return fmt::format("announced {} bytes, and a frame has at most {}", length, largest_blob);
    return {};
  }

  Descriptor socket_;
  std::array<std::byte, header_bytes + largest_blob> buffer_;
  std::size_t filled_ = 0;  // bytes of buffer_
  std::deque<Packet> queue_;
  std::size_t sent_ = 0;  // bytes of the queue's first
};

}  // namespace comm::detail
}  // namespace TESSERA_ABI
}  // namespace tessera
