#include "tessera/data/tiff.hpp"

#include "picture.hpp"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace tessera;
  const io::Bytes file = fuzz::bytes_of(data, size);
  {
    const data::detail::TiffFile tiff(file);
    if (tiff.get() == nullptr) return 0;
    const data::detail::TiffLayout layout = data::detail::tiff_layout(tiff);
    if (layout.width > fuzz::most_pixels || layout.height > fuzz::most_pixels ||
        std::int64_t{layout.width} * layout.height > fuzz::most_pixels)
      return 0;
  }
  fuzz::decode_twice([&](data::Image& to) {
    const int orientation = data::decode_tiff(file, "input", to);
    fuzz::require(orientation >= 1 && orientation <= 8, "an orientation is in 1 .. 8");
  });
  return 0;
}
