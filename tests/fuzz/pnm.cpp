#include "tessera/data/pnm.hpp"

#include "picture.hpp"

// The file bounds the pixels: eight for each byte.
extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace tessera;
  fuzz::decode_twice([&](data::Image& to) { data::decode_pnm(fuzz::bytes_of(data, size), "input", to); });
  return 0;
}
