#include "input.hpp"
#include "tessera/data/jpeg.hpp"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const int orientation = tessera::data::detail::exif_orientation({data, size});
  tessera::fuzz::require(orientation >= 1 && orientation <= 8, "an orientation is in 1 .. 8");
  return 0;
}
