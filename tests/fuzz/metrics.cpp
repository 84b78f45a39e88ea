#include "tessera/io/metrics.hpp"

#include "input.hpp"

// Rows that are read can be written and read again.
extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace tessera;
  const fuzz::MemoryFile input(fuzz::bytes_of(data, size));
  fuzz::accept_refusals([&] {
    const io::Metrics metrics = io::read_metrics(input.path());
    std::string text;
    for (const auto& row : metrics.rows) text += row.dump() + "\n";
    const fuzz::MemoryFile copy(std::as_bytes(std::span(text)));
    const io::Metrics again = io::read_metrics(copy.path());
    fuzz::require(again.damaged.empty() && again.rows.size() == metrics.rows.size(), "rows that were written are read");
  });
  return 0;
}
