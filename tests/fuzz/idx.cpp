#include "tessera/data/idx.hpp"

#include "input.hpp"

// Labels and images, plain or packed by gzip: as many values as the header states.
extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace tessera;
  const fuzz::MemoryFile input(fuzz::bytes_of(data, size));
  for (const int rank : {1, 3})
    fuzz::accept_refusals([&] {
      data::detail::IdxFile file(input.path());
      std::uint64_t count = 1;
      for (const int extent : file.header(rank)) {
        count *= static_cast<std::uint64_t>(extent);
        if (count > (1u << 26)) return;
      }
      fuzz::require(file.values(count).size() == count, "a file has as many values as it states");
    });
  return 0;
}
