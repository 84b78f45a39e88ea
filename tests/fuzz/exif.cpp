#include "input.hpp"
#include "tessera/data/picture_file.hpp"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace tessera;
  const int orientation = data::detail::exif_orientation(fuzz::bytes_of(data, size));
  fuzz::require(orientation >= 1 && orientation <= 8, "an orientation is in 1 .. 8");
  return 0;
}
