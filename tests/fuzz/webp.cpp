#include "tessera/data/webp.hpp"

#include "picture.hpp"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace tessera;
  int width = 0, height = 0;
  if (WebPGetInfo(data, size, &width, &height) == 0 || std::int64_t{width} * height > fuzz::most_pixels) return 0;
  fuzz::decode_twice([&](data::Image& to) {
    const int orientation = data::decode_webp(fuzz::bytes_of(data, size), "input", to);
    fuzz::require(orientation >= 1 && orientation <= 8, "an orientation is in 1 .. 8");
  });
  return 0;
}
