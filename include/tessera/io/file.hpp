// Files that are complete or not there: POSIX.
#pragma once

#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstddef>
#include <cstring>
#include <filesystem>
#include <span>
#include <string>
#include <string_view>
#include <system_error>
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

// The result of a system call, which is made again if a signal interrupts it.
template <class Call>
[[nodiscard]] auto uninterrupted(Call&& call) {
  auto result = call();
  while (result < 0 && errno == EINTR) result = call();
  return result;
}

// An open file descriptor.
class Descriptor {
 public:
  Descriptor(const std::filesystem::path& path, int flags)
      : path_(path), descriptor_(uninterrupted([&] { return ::open(path.c_str(), flags | O_CLOEXEC, 0644); })) {
    if (descriptor_ < 0) fail_call(path, "open");
  }
  Descriptor(Descriptor&& other) noexcept
      : path_(std::move(other.path_)), descriptor_(std::exchange(other.descriptor_, -1)) {}
  Descriptor& operator=(Descriptor&&) = delete;
  ~Descriptor() {
    if (descriptor_ >= 0) ::close(descriptor_);
  }

  [[nodiscard]] std::uintmax_t size() const {
    const struct stat status = state();
    if (!S_ISREG(status.st_mode)) fail("{}: is not a regular file", path_.string());
    return static_cast<std::uintmax_t>(status.st_size);
  }
  [[nodiscard]] struct stat state() const {
    struct stat status {};
    if (uninterrupted([&] { return ::fstat(descriptor_, &status); }) != 0) fail_call(path_, "fstat");
    return status;
  }

  void write(Bytes bytes) const {
    while (!bytes.empty()) {
      const ssize_t count = uninterrupted([&] { return ::write(descriptor_, bytes.data(), bytes.size()); });
      if (count < 0) fail_call(path_, "write");
      if (count == 0) fail("{}: write failed: none of {} bytes were taken", path_.string(), bytes.size());
      bytes = bytes.subspan(static_cast<std::size_t>(count));
    }
  }

  void clear() const {
    if (uninterrupted([&] { return ::ftruncate(descriptor_, 0); }) != 0) fail_call(path_, "ftruncate");
  }

  void read(std::uintmax_t offset, std::span<std::byte> to) const {
    while (!to.empty()) {
      const ssize_t count =
          uninterrupted([&] { return ::pread(descriptor_, to.data(), to.size(), static_cast<off_t>(offset)); });
      if (count < 0) fail_call(path_, "read");
      if (count == 0) fail("{}: ends at byte {}, in the middle of its data", path_.string(), offset);
      to = to.subspan(static_cast<std::size_t>(count));
      offset += static_cast<std::uintmax_t>(count);
    }
  }

  void flush_to_disk() const {
    if (uninterrupted([&] { return ::fsync(descriptor_); }) != 0) fail_call(path_, "fsync");
  }

  // Takes the lock of the file, which ends with the process: true; false and errno if that is not possible now.
  [[nodiscard]] bool lock() const {
    return uninterrupted([&] { return ::flock(descriptor_, LOCK_EX | LOCK_NB); }) == 0;
  }

  // Linux closes the descriptor even if a signal interrupts the call.
  void close() {
    if (::close(std::exchange(descriptor_, -1)) != 0 && errno != EINTR) fail_call(path_, "close");
  }

 private:
  std::filesystem::path path_;
  int descriptor_;
};

[[nodiscard]] inline std::filesystem::path folder_of(const std::filesystem::path& path) {
  return path.has_parent_path() ? path.parent_path() : ".";
}

// The file that becomes `path` when it is complete.
[[nodiscard]] inline std::filesystem::path temporary_of(const std::filesystem::path& path) {
  std::filesystem::path temporary = path;
  temporary += "." + std::to_string(::getpid()) + ".tmp";
  return temporary;
}

inline void rename_file(const std::filesystem::path& from, const std::filesystem::path& to) {
  if (uninterrupted([&] { return ::rename(from.c_str(), to.c_str()); }) != 0) fail_call(to, "rename");
}
inline void remove_file(const std::filesystem::path& path) {
  if (uninterrupted([&] { return ::unlink(path.c_str()); }) != 0 && errno != ENOENT) fail_call(path, "unlink");
}

}  // namespace detail

// Writes the names in a folder to the disk: what was made, renamed or removed there.
inline void sync_folder(const std::filesystem::path& folder) {
  detail::Descriptor(folder, O_RDONLY | O_DIRECTORY).flush_to_disk();
}

// Makes a folder, and those above it. When it returns, new ones are on the disk. Throws Error that names the folder.
inline void make_folder(const std::filesystem::path& folder) {
  if (std::filesystem::is_directory(folder)) return;
  const std::filesystem::path above = detail::folder_of(folder);
  if (above != folder) make_folder(above);
  if (!folder.has_filename()) return;  // of "above/"
  if (detail::uninterrupted([&] { return ::mkdir(folder.c_str(), 0777); }) != 0 &&
      !(errno == EEXIST && std::filesystem::is_directory(folder)))
    detail::fail_call(folder, "mkdir");
  sync_folder(above);
}

// Replaces the file by the concatenation of `parts`, or leaves it as it was: the bytes go to a new file in the same
// folder, to the disk, and only then take the name. Throws Error, which names the path and the call that failed.
inline void replace_file(const std::filesystem::path& path, std::span<const Bytes> parts) {
  const std::filesystem::path temporary = detail::temporary_of(path);
  try {
    detail::Descriptor file(temporary, O_WRONLY | O_CREAT | O_TRUNC);
    for (const Bytes part : parts) file.write(part);
    file.flush_to_disk();
    file.close();
    detail::rename_file(temporary, path);
  } catch (...) {
    ::unlink(temporary.c_str());
    throw;
  }
  sync_folder(detail::folder_of(path));
}

// Throws Error, which says why, if replace_file could not replace the file: its folder cannot be written to, or what
// has the name is no regular file.
inline void check_replaceable(const std::filesystem::path& path) {
  std::error_code none;
  if (const auto there = std::filesystem::status(path, none);
      std::filesystem::exists(there) && !std::filesystem::is_regular_file(there))
    fail("{}: is not a regular file, and is not replaced; choose another name", path.string());
  const std::filesystem::path temporary = detail::temporary_of(path);
  detail::Descriptor(temporary, O_WRONLY | O_CREAT | O_TRUNC).close();
  detail::remove_file(temporary);
}

// Removes the unfinished files that killed processes have left of `path`.
inline void remove_unfinished(const std::filesystem::path& path) {
  const std::string start = path.filename().string() + ".", end = ".tmp";
  for (const auto& entry : std::filesystem::directory_iterator(detail::folder_of(path))) {
    const std::string name = entry.path().filename().string();
    if (!name.starts_with(start) || !name.ends_with(end) || name.size() <= start.size() + end.size()) continue;
    const std::string process = name.substr(start.size(), name.size() - start.size() - end.size());
    if (process.find_first_not_of("0123456789") == std::string::npos) detail::remove_file(entry.path());
  }
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
