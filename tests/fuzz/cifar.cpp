#include <filesystem>

#include "input.hpp"
#include "tessera/data/cifar.hpp"

// The test file of CIFAR-100.
extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace tessera;
  static const std::filesystem::path folder = [] {
    const auto made = std::filesystem::temp_directory_path() / ("tessera_fuzz_cifar_" + std::to_string(::getpid()));
    std::filesystem::create_directories(made);
    return made;
  }();
  const std::filesystem::path file = folder / "test.bin";
  {
    const io::detail::Descriptor written(file, O_WRONLY | O_CREAT | O_TRUNC);
    written.write(fuzz::bytes_of(data, size));
  }
  fuzz::accept_refusals([&] {
    const data::Cifar images(folder, "test");
    fuzz::require(static_cast<std::size_t>(images.size()) * 3074 == size, "all records are read");
    for (int i = 0; i < images.size(); ++i) fuzz::require(images.label(i) >= 0 && images.label(i) < 100, "a label");
  });
  std::filesystem::remove(file);
  return 0;
}
