// Fingerprint: a check that all ranks run the same job, that is the same model, recipe and build.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "tessera/comm/communicator.hpp"
#include "tessera/core/abi.hpp"
#include "tessera/core/errors.hpp"
#include "tessera/core/index.hpp"

namespace tessera {
inline namespace TESSERA_ABI {
namespace comm {

// A value that must be equal on all ranks: {"recipe", text}, {"ranks", "4"}. Equal programs have equal names.
struct Fact {
  std::string name, value;
};

namespace detail {

using Bytes = std::vector<std::byte>;

// Every rank's bytes, in the order of ranks.
template <class Communicator>
[[nodiscard]] std::vector<Bytes> gather_bytes(Communicator& communicator, const Bytes& mine) {
  if constexpr (requires { communicator.exchange(mine); }) {
    return communicator.exchange(mine);
  } else {
    Host host;
    const auto ranks = static_cast<std::size_t>(communicator.size()),
               rank = static_cast<std::size_t>(communicator.rank());
    std::vector<index> displacements(ranks + 1);
    for (std::size_t r = 0; r <= ranks; ++r) displacements[r] = static_cast<index>(r);
    std::vector<index> sizes(ranks);
    sizes[rank] = static_cast<index>(mine.size());
    communicator.all_gather(host, sizes.data(), displacements);
    communicator.wait(host);

    for (std::size_t r = 0; r < ranks; ++r) displacements[r + 1] = displacements[r] + sizes[r];
    std::vector<std::int8_t> all(static_cast<std::size_t>(displacements.back()));
    const auto bytes = std::as_writable_bytes(std::span(all));
    std::ranges::copy(mine, bytes.begin() + displacements[rank]);
    communicator.all_gather(host, all.data(), displacements);
    communicator.wait(host);
    std::vector<Bytes> parts;
    for (std::size_t r = 0; r < ranks; ++r)
      parts.emplace_back(bytes.begin() + displacements[r], bytes.begin() + displacements[r + 1]);
    return parts;
  }
}

// FNV-1a: it finds mistakes, and does not withstand attackers.
[[nodiscard]] inline std::uint64_t hash(const Fact& fact) {
  std::uint64_t value = 0xcbf29ce484222325U;
  const auto add = [&](std::string_view text) {
    for (const char c : text) value = (value ^ static_cast<unsigned char>(c)) * 0x100000001b3U;
    value = (value ^ 0xffU) * 0x100000001b3U;  // no part of UTF-8: names end here
  };
  add(fact.name);
  add(fact.value);
  return value;
}

[[nodiscard]] inline Bytes hashes(std::span<const Fact> facts) {
  Bytes bytes;
  for (const Fact& fact : facts) {
    const std::uint64_t value = hash(fact);
    const auto more = std::as_bytes(std::span(&value, 1));
    bytes.insert(bytes.end(), more.begin(), more.end());
  }
  return bytes;
}

// A fact in the form of a message, cut to a readable length.
[[nodiscard]] inline Bytes show(std::span<const Fact> facts, std::size_t i) {
  constexpr std::size_t longest = 1000;
  const std::string text = i < facts.size() ? fmt::format("{} '{}'", facts[i].name, facts[i].value) : "no such fact";
  const auto bytes = std::as_bytes(std::span(std::string_view(text).substr(0, longest)));
  return {bytes.begin(), bytes.end()};
}

[[nodiscard]] inline std::string text(const Bytes& bytes) {
  std::string text(bytes.size(), '\0');
  std::ranges::transform(bytes, text.begin(), [](std::byte byte) { return static_cast<char>(byte); });
  return text;
}

}  // namespace detail

// Compares the facts of all ranks, in order. All ranks call it, with a communicator of the host or with a Store (then
// of at most 512 facts). Throws Error on every rank if one differs from rank 0 in a fact, which names the first such
// rank and fact and tells both values.
template <class Communicator>
void expect_alike(Communicator& communicator, std::span<const Fact> facts) {
  const std::vector<detail::Bytes> all = detail::gather_bytes(communicator, detail::hashes(facts));
  const auto other = std::ranges::find_if(all, [&](const detail::Bytes& one) { return one != all.front(); });
  if (other == all.end()) return;
  const auto [at_first, at_other] = std::ranges::mismatch(all.front(), *other);
  const auto fact = static_cast<std::size_t>(at_first - all.front().begin()) / sizeof(std::uint64_t);
  const auto rank = static_cast<std::size_t>(other - all.begin());
  const bool shown = communicator.rank() == 0 || static_cast<std::size_t>(communicator.rank()) == rank;
  const std::vector<detail::Bytes> texts =
      detail::gather_bytes(communicator, shown ? detail::show(facts, fact) : detail::Bytes{});
  fail("ranks do not run the same job: rank 0 has {}, rank {} has {}", detail::text(texts.front()), rank,
       detail::text(texts[rank]));
}

}  // namespace comm
}  // namespace TESSERA_ABI
}  // namespace tessera
