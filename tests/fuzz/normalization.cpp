#include "tessera/data/normalization.hpp"

#include "input.hpp"

// A text that is accepted is written as one with the same bits.
extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace tessera;
  fuzz::accept_refusals([&] {
    const std::string text(reinterpret_cast<const char*>(data), size);
    const data::Normalization read = data::normalization_from(text, "input");
    const data::Normalization again = data::normalization_from(data::to_text(read), "again");
    fuzz::require(read.mean == again.mean && read.deviation == again.deviation, "what was written is read");
  });
  return 0;
}
