#include <set>

#include "input.hpp"
#include "tessera/data/image_list.hpp"

// A list of pictures, and the numbers of its labels.
extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace tessera;
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  fuzz::accept_refusals([&] {
    const auto pictures = data::detail::listed_pictures(text, "list");
    for (const auto& picture : pictures) fuzz::require(!picture.path.empty(), "a line has a path");
    if (pictures.empty() || pictures.front().label.empty()) return;
    const auto classes = data::detail::classes_of(pictures);
    const std::set<std::string> known(classes.begin(), classes.end());
    for (const auto& picture : pictures) fuzz::require(known.contains(picture.label), "a label is a class");
  });
  const fuzz::MemoryFile file(fuzz::bytes_of(data, size));
  fuzz::accept_refusals([&] {
    const data::ImageList images(file.path());
    for (int i = 0; i < images.size(); ++i)
      fuzz::require(!images.labelled() || images.label(i) < static_cast<int>(images.classes().size()),
                    "a label has a class");
  });
  return 0;
}
