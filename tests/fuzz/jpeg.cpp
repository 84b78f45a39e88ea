#include "tessera/data/jpeg.hpp"

#include "picture.hpp"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace tessera;
  const io::Bytes file = fuzz::bytes_of(data, size);
  if (data::detail::Jpeg jpeg;
      !jpeg.read_header(file) || std::int64_t{jpeg.width()} * jpeg.height() > fuzz::most_pixels)
    return 0;
  fuzz::decode_twice([&](data::Image& to) {
    const int orientation = data::decode_jpeg(file, "input", to);
    fuzz::require(orientation >= 1 && orientation <= 8, "an orientation is in 1 .. 8");
  });
  return 0;
}
