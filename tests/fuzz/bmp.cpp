#include "tessera/data/bmp.hpp"

#include "picture.hpp"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace tessera;
  const io::Bytes file = fuzz::bytes_of(data, size);
  fuzz::accept_refusals([&] {
    const data::detail::BmpHeader header = data::detail::bmp_header(file, "input");
    if (header.width * header.height > fuzz::most_pixels) return;
    fuzz::decode_twice([&](data::Image& to) { data::decode_bmp(file, "input", to); });
  });
  return 0;
}
