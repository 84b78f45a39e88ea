// Files that are complete or not there: POSIX.
#pragma once

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstddef>
#include <cstring>
#include <filesystem>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "tessera/core/abi.hpp"
#include "tessera/core/errors.hpp"

namespace tessera {
inline namespace TESSERA_ABI {
namespace io {

using Bytes = std::span<const std::byte>;

namespace detail {

[[noreturn]] inline void fail_call(const std::filesystem::path& path, const char* call) {
  const int code = errno;
  fail("{}: {} failed: {}", path.string(), call, std::strerror(code));
}

// An open file descriptor.
class Descriptor {
 public:
  Descriptor(const std::filesystem::path& path, int flags)
      : path_(path), descriptor_(::open(path.c_str(), flags | O_CLOEXEC, 0644)) {
    if (descriptor_ < 0) fail_call(path, "open");
  }
  Descriptor(const Descriptor&) = delete;
  Descriptor& operator=(const Descriptor&) = delete;
  ~Descriptor() {
    if (descriptor_ >= 0) ::close(descriptor_);
  }

  [[nodiscard]] std::uintmax_t size() const {
    struct stat status {};
    if (::fstat(descriptor_, &status) != 0) fail_call(path_, "fstat");
    if (!S_ISREG(status.st_mode)) fail("{}: is not a regular file", path_.string());
    return static_cast<std::uintmax_t>(status.st_size);
  }

  void write(Bytes bytes) const {
    while (!bytes.empty()) {
      const ssize_t count = ::write(descriptor_, bytes.data(), bytes.size());
      if (count < 0 && errno == EINTR) continue;
      if (count < 0) fail_call(path_, "write");
      bytes = bytes.subspan(static_cast<std::size_t>(count));
    }
  }

  void read(std::uintmax_t offset, std::span<std::byte> to) const {
    while (!to.empty()) {
      const ssize_t count = ::pread(descriptor_, to.data(), to.size(), static_cast<off_t>(offset));
      if (count < 0 && errno == EINTR) continue;
      if (count < 0) fail_call(path_, "read");
      if (count == 0) fail("{}: ends at byte {}, in the middle of its data", path_.string(), offset);
      to = to.subspan(static_cast<std::size_t>(count));
      offset += static_cast<std::uintmax_t>(count);
    }
  }

  void flush_to_disk() const {
    if (::fsync(descriptor_) != 0) fail_call(path_, "fsync");
  }

  void close() {
    if (::close(std::exchange(descriptor_, -1)) != 0) fail_call(path_, "close");
  }

 private:
  std::filesystem::path path_;
  int descriptor_;
};

}  // namespace detail

// Replaces the file by the concatenation of `parts`, or leaves it as it was: the bytes go to a new file in the same
// folder, to the disk, and only then take the name. Throws Error, which names the path and the call that failed.
inline void replace_file(const std::filesystem::path& path, std::span<const Bytes> parts) {
  const std::filesystem::path folder = path.has_parent_path() ? path.parent_path() : ".";
  std::filesystem::path temporary = path;
  temporary += "." + std::to_string(::getpid()) + ".tmp";
  try {
    detail::Descriptor file(temporary, O_WRONLY | O_CREAT | O_TRUNC);
    for (const Bytes part : parts) file.write(part);
    file.flush_to_disk();
    file.close();
    if (::rename(temporary.c_str(), path.c_str()) != 0) detail::fail_call(path, "rename");
  } catch (...) {
    ::unlink(temporary.c_str());
    throw;
  }
  detail::Descriptor(folder, O_RDONLY | O_DIRECTORY).flush_to_disk();
}

// The same for text.
inline void replace_file(const std::filesystem::path& path, std::string_view text) {
  const Bytes part = std::as_bytes(std::span(text));
  replace_file(path, std::span(&part, 1));
}

// All of a file of at most `limit` bytes.
[[nodiscard]] inline std::string read_file(const std::filesystem::path& path, std::uintmax_t limit) {
  const detail::Descriptor file(path, O_RDONLY);
  const std::uintmax_t size = file.size();
  if (size > limit) fail("{}: holds {} bytes, more than the {} that are read", path.string(), size, limit);
  std::string text(static_cast<std::size_t>(size), '\0');
  file.read(0, std::as_writable_bytes(std::span(text)));
  return text;
}

}  // namespace io
}  // namespace TESSERA_ABI
}  // namespace tessera
