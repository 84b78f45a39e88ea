#include "tessera/data/png.hpp"

#include <zlib.h>

#include <vector>

#include "picture.hpp"

namespace {

// A number of 4 bytes, the highest first.
std::uint32_t number(const std::uint8_t* at) {
  return std::uint32_t{at[0]} << 24 | std::uint32_t{at[1]} << 16 | std::uint32_t{at[2]} << 8 | at[3];
}

// The file with the checksums that its chunks should have: nearly no changed file has them by chance.
std::vector<std::uint8_t> with_checksums(const std::uint8_t* data, std::size_t size) {
  constexpr std::size_t signature = 8, around = 12;  // length, name and checksum of a chunk
  std::vector<std::uint8_t> file(data, data + size);
  for (std::size_t at = signature; at + around <= size; at += around + number(file.data() + at)) {
    const std::uint32_t length = number(file.data() + at);
    if (length > size - at - around) break;
    const auto sum = static_cast<std::uint32_t>(crc32(0, file.data() + at + 4, length + 4));
    for (unsigned i = 0; i < 4; ++i) file[at + 8 + length + i] = static_cast<std::uint8_t>(sum >> (24 - 8 * i));
  }
  return file;
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace tessera;
  const std::vector<std::uint8_t> changed = with_checksums(data, size);
  const io::Bytes file = std::as_bytes(std::span(changed));
  if (data::detail::Png png(file); !png.read_header() || std::int64_t{png.width()} * png.height() > fuzz::most_pixels)
    return 0;
  fuzz::decode_twice([&](data::Image& to) {
    const int orientation = data::decode_png(file, "input", to);
    fuzz::require(orientation >= 1 && orientation <= 8, "an orientation is in 1 .. 8");
  });
  return 0;
}
