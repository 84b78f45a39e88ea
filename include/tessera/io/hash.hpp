// XXH3, a hash of 64 bits by which damage is seen. It is no protection against somebody who changes data on purpose.
// Needs xxHash (tessera::io).
#pragma once

#include <fmt/format.h>
#include <xxhash.h>

#include <cstddef>
#include <cstdint>
#include <memory>
#include <new>
#include <span>
#include <string>
#include <string_view>

#include "tessera/core/abi.hpp"

namespace tessera {
inline namespace TESSERA_ABI {
namespace io {

[[nodiscard]] inline std::uint64_t hash(std::span<const std::byte> bytes) {
  return XXH3_64bits(bytes.data(), bytes.size());
}

// Sixteen digits, as xxhsum -H3 and Python's xxhash print them.
[[nodiscard]] inline std::string hash_text(std::uint64_t hash) {
  return fmt::format("{:016x}", hash);
}

// The hash of items that come one after the other. Where one item ends and the next begins counts.
class HashOfItems {
 public:
  HashOfItems() : state_(XXH3_createState()) {
    if (!state_) throw std::bad_alloc();
    XXH3_64bits_reset(state_.get());
  }

  void add(std::span<const std::byte> bytes) {
    const std::uint64_t size = bytes.size();
    XXH3_64bits_update(state_.get(), &size, sizeof(size));
    XXH3_64bits_update(state_.get(), bytes.data(), bytes.size());
  }
  void add(std::string_view text) { add(std::as_bytes(std::span(text))); }
  void add(std::int64_t number) { add(std::as_bytes(std::span(&number, 1))); }

  [[nodiscard]] std::uint64_t value() const { return XXH3_64bits_digest(state_.get()); }

 private:
  struct Free {
    void operator()(XXH3_state_t* state) const noexcept { XXH3_freeState(state); }
  };
  std::unique_ptr<XXH3_state_t, Free> state_;
};

}  // namespace io
}  // namespace TESSERA_ABI
}  // namespace tessera
