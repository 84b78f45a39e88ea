#include "tessera/io/npy.hpp"

#include <algorithm>

#include "input.hpp"

// An array that is read can be written and read again.
extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace tessera;
  const fuzz::MemoryFile input(fuzz::bytes_of(data, size));
  static_cast<void>(io::is_npy(input.path()));
  fuzz::accept_refusals([&] { static_cast<void>(io::read_npy<std::uint8_t>(input.path())); });
  fuzz::accept_refusals([&] {
    const xt::xarray<float> values = io::read_npy<float>(input.path());
    const std::string text = xt::dump_npy(values);
    const fuzz::MemoryFile copy(std::as_bytes(std::span(text)));
    const xt::xarray<float> again = io::read_npy<float>(copy.path());
    fuzz::require(again.shape() == values.shape(), "an array that was written has its shape");
    fuzz::require(std::ranges::equal(std::as_bytes(std::span(again.data(), again.size())),
                                     std::as_bytes(std::span(values.data(), values.size()))),
                  "an array that was written has its values");
  });
  return 0;
}
