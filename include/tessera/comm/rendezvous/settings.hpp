// Settings of a store: the job's token, by which its ranks recognize each other, and times.
#pragma once

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <array>
#include <chrono>
#include <cstddef>
#include <optional>
#include <span>
#include <string>
#include <string_view>

#include "tessera/comm/communicator.hpp"
#include "tessera/comm/launch.hpp"
#include "tessera/comm/rendezvous/wire.hpp"
#include "tessera/core/errors.hpp"

namespace tessera {
inline namespace TESSERA_ABI {
namespace comm {

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

// Takes the same time for all values of the bytes.
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

}  // namespace comm
}  // namespace TESSERA_ABI
}  // namespace tessera
