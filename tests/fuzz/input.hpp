// Parts that fuzz targets share: the input as a file, and what counts as a finding.
#pragma once

#include <sys/mman.h>
#include <unistd.h>

#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <span>
#include <string>

#include "tessera/core/errors.hpp"
#include "tessera/io/file.hpp"

namespace tessera::fuzz {

// A file in memory, of these bytes, for as long as the object lives.
class MemoryFile {
 public:
  explicit MemoryFile(io::Bytes bytes) : descriptor_(::memfd_create("input", MFD_CLOEXEC)) {
    io::detail::Descriptor(path(), O_WRONLY).write(bytes);
  }
  MemoryFile(const MemoryFile&) = delete;
  MemoryFile& operator=(const MemoryFile&) = delete;
  ~MemoryFile() { ::close(descriptor_); }

  [[nodiscard]] std::string path() const { return "/proc/self/fd/" + std::to_string(descriptor_); }

 private:
  int descriptor_;
};

[[nodiscard]] inline io::Bytes bytes_of(const std::uint8_t* data, std::size_t size) {
  return std::as_bytes(std::span(data, size));
}

// Ends the process, which is a finding, unless `holds`.
inline void require(bool holds, const char* what) {
  if (holds) return;
  std::fprintf(stderr, "broken: %s\n", what);
  std::abort();
}

// Calls read(). A refusal, tessera::Error, is no finding; any other exception leaves the target and is one.
template <class Read>
void accept_refusals(Read&& read) {
  try {
    read();
  } catch (const Error&) {
  }
}

}  // namespace tessera::fuzz
