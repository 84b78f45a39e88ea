// The memory that this process may still take: POSIX, and what Linux tells in /proc and /sys/fs/cgroup. Limits that are
// not set or cannot be read count as none. Allocates nothing.
#pragma once

#include <fcntl.h>
#include <sys/resource.h>
#include <unistd.h>

#include <array>
#include <charconv>
#include <cstddef>
#include <optional>
#include <string_view>

#include "tessera/core/abi.hpp"
#include "tessera/core/index.hpp"

namespace tessera {
inline namespace TESSERA_ABI {

inline constexpr index no_memory_limit = index{1} << 62;  // bytes

namespace detail {

// The number at the start of `text`, behind spaces; none: there is no number, such as in "max".
[[nodiscard]] inline std::optional<index> number_in(std::string_view text) {
  const std::size_t start = text.find_first_not_of(" \t");
  if (start == std::string_view::npos) return std::nullopt;
  index value = 0;
  const auto read = std::from_chars(text.data() + start, text.data() + text.size(), value);
  return read.ec == std::errc() ? std::optional(value) : std::nullopt;
}

// The number behind `key` at the start of a line.
[[nodiscard]] inline std::optional<index> number_of(std::string_view key, std::string_view text) {
  while (!text.empty()) {
    const std::string_view line = text.substr(0, text.find('\n'));
    if (line.starts_with(key)) return number_in(line.substr(key.size()));
    text.remove_prefix(line.size() < text.size() ? line.size() + 1 : text.size());
  }
  return std::nullopt;
}

// Bytes left of `limit` when `used` are taken.
[[nodiscard]] constexpr index left_of(index limit, index used) {
  return limit > used ? limit - used : 0;
}

// Bytes that the machine has for new memory, by /proc/meminfo: free, of caches that it gives up, and of swap.
[[nodiscard]] inline index machine_has(std::string_view meminfo) {
  const auto available = number_of("MemAvailable:", meminfo);
  return available ? (*available + number_of("SwapFree:", meminfo).value_or(0)) * 1024 : no_memory_limit;
}

// Bytes that a control group has, by the texts of its files. Files in the cache count as used there, but make room.
[[nodiscard]] inline index group_has(std::string_view limit, std::string_view used, std::string_view statistics) {
  const auto most = number_in(limit), taken = number_in(used);
  if (!most || !taken) return no_memory_limit;
  index cached = 0;
  for (const std::string_view key : {"total_inactive_file ", "total_active_file ", "total_slab_reclaimable "}) {
    constexpr std::size_t total = 6;  // version 2 has the same keys without total_
    cached += number_of(key, statistics).value_or(number_of(key.substr(total), statistics).value_or(0));
  }
  return left_of(*most, left_of(*taken, cached));
}

// The path of this process in /proc/self/cgroup, whose lines are <number>:<controllers>:<path>. Version 2 has no
// controllers there, version 1 has "memory" among them.
[[nodiscard]] inline std::optional<std::string_view> group_path(std::string_view groups, bool version_2) {
  while (!groups.empty()) {
    const std::string_view line = groups.substr(0, groups.find('\n'));
    groups.remove_prefix(line.size() < groups.size() ? line.size() + 1 : groups.size());
    const std::size_t first = line.find(':');
    const std::size_t second = first == std::string_view::npos ? first : line.find(':', first + 1);
    if (second == std::string_view::npos) continue;
    const std::string_view controllers = line.substr(first + 1, second - first - 1);
    if (version_2 ? controllers.empty() : controllers == "memory") return line.substr(second + 1);
  }
  return std::nullopt;
}

// The text of a small file, cut off at its capacity; empty if it cannot be read. The path has up to three parts.
class SmallFile {
 public:
  explicit SmallFile(std::string_view root, std::string_view folder = {}, std::string_view name = {}) {
    std::array<char, 512> path{};
    std::size_t length = 0;
    if (root.size() + folder.size() + name.size() >= path.size()) return;
    for (const std::string_view part : {root, folder, name})
      for (const char letter : part) path[length++] = letter;
    const int descriptor = ::open(path.data(), O_RDONLY | O_CLOEXEC);
    if (descriptor < 0) return;
    while (size_ < text_.size()) {
      const ssize_t count = ::read(descriptor, text_.data() + size_, text_.size() - size_);
      if (count <= 0) break;
      size_ += static_cast<std::size_t>(count);
    }
    ::close(descriptor);
  }

  [[nodiscard]] std::string_view text() const { return {text_.data(), size_}; }

 private:
  std::array<char, 1 << 13> text_;
  std::size_t size_ = 0;
};

// Bytes that the control groups of this process have: the least of its own group and of those around it.
[[nodiscard]] inline index groups_have(bool version_2) {
  const SmallFile groups("/proc/self/cgroup");
  const auto own = group_path(groups.text(), version_2);
  if (!own) return no_memory_limit;
  const std::string_view root = version_2 ? "/sys/fs/cgroup" : "/sys/fs/cgroup/memory";
  index least = no_memory_limit;
  for (std::string_view path = *own;;) {
    if (path == "/") path = "";
    const index has = group_has(SmallFile(root, path, version_2 ? "/memory.max" : "/memory.limit_in_bytes").text(),
                                SmallFile(root, path, version_2 ? "/memory.current" : "/memory.usage_in_bytes").text(),
                                SmallFile(root, path, "/memory.stat").text());
    least = smaller(least, has);
    if (path.empty()) return least;
    path = path.substr(0, path.rfind('/'));
  }
}

[[nodiscard]] inline index limit_of(decltype(RLIMIT_AS) resource) {
  struct rlimit limit {};
  if (::getrlimit(resource, &limit) != 0 || limit.rlim_cur == RLIM_INFINITY ||
      limit.rlim_cur > static_cast<rlim_t>(no_memory_limit))
    return no_memory_limit;
  return static_cast<index>(limit.rlim_cur);
}

}  // namespace detail

// Bytes that the limits of the process (ulimit -v, ulimit -d) leave it.
[[nodiscard]] inline index address_space_left() {
  const detail::SmallFile status("/proc/self/status");
  index least = no_memory_limit;
  const auto take = [&](decltype(RLIMIT_AS) resource, std::string_view key) {
    const index limit = detail::limit_of(resource);
    const auto used = detail::number_of(key, status.text());
    if (limit == no_memory_limit || !used) return;
    least = smaller(least, detail::left_of(limit, *used * 1024));
  };
  take(RLIMIT_AS, "VmSize:");
  take(RLIMIT_DATA, "VmData:");
  return least;
}

// Bytes that the process may still take: the least of what its limits, its control groups and the machine leave it.
[[nodiscard]] inline index free_memory() {
  const index machine = smaller(address_space_left(), detail::machine_has(detail::SmallFile("/proc/meminfo").text()));
  return smaller(machine, smaller(detail::groups_have(true), detail::groups_have(false)));
}

}  // namespace TESSERA_ABI
}  // namespace tessera
