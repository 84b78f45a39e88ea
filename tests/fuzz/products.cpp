#include "tessera/cuda/product_choices.hpp"

#include "input.hpp"

// A text that is accepted is written as one with the same choices.
extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace tessera;
  const cuda::ProductPlace place{130100, "D"};
  fuzz::accept_refusals([&] {
    const std::string_view text(reinterpret_cast<const char*>(data), size);
    const cuda::ProductChoices read = cuda::product_choices_from(text, place, "input");
    fuzz::require(read == cuda::product_choices_from(to_text(read, place), place, "again"), "what was written is read");
  });
  return 0;
}
