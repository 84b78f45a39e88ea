#include "tessera/io/safetensors.hpp"

#include <filesystem>
#include <vector>

#include "input.hpp"

// A file whose header is accepted gives as many values as its shapes state, and the same values when it is written and
// read again.
extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace tessera;
  const fuzz::MemoryFile input(fuzz::bytes_of(data, size));
  fuzz::accept_refusals([&] {
    const io::Safetensors file(input.path());
    std::vector<std::vector<double>> values;
    std::vector<io::TensorToWrite> tensors;
    for (const std::string& name : file.names()) {
      values.push_back(file.read<double>(name));
      std::size_t count = 1;
      for (const std::int64_t extent : file.shape(name)) count *= static_cast<std::size_t>(extent);
      fuzz::require(values.back().size() == count, "a tensor has as many values as its shape states");
    }
    for (const std::string& name : file.names())
      tensors.push_back({name, io::Dtype::f64, file.shape(name), std::as_bytes(std::span(values[tensors.size()]))});
    const auto copy = std::filesystem::temp_directory_path() / ("tessera_fuzz_" + std::to_string(::getpid()));
    io::write_safetensors(copy, tensors, file.metadata());
    const io::Safetensors written(copy);
    std::filesystem::remove(copy);
    for (std::size_t i = 0; i < tensors.size(); ++i) {
      const std::vector<double> again = written.read<double>(tensors[i].name);
      fuzz::require(std::ranges::equal(std::as_bytes(std::span(again)), tensors[i].bytes),
                    "a tensor that was written is read");
    }
  });
  return 0;
}
