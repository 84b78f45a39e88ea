// The algorithms of matrix products that a backend has chosen: the same on all ranks, and kept beside a checkpoint, so
// that a run that continues makes the same sums. Backends that choose nothing keep no file.
#pragma once

#include <fmt/format.h>

#include <filesystem>
#include <string>
#include <vector>

#include "tessera/core/errors.hpp"
#include "tessera/core/index.hpp"
#include "tessera/io/file.hpp"

namespace tessera {
inline namespace TESSERA_ABI {

template <class Backend>
inline constexpr bool chooses_products = requires(const Backend& backend) {
  backend.products().choices();
};

// Runs choose() so that all ranks have the choices of rank 0, whose file thus serves all. A rank on another kind of
// device makes its own. On all ranks.
template <class Backend, class Communicator, class Choose>
void choose_alike(Backend& backend, Communicator& communicator, Choose&& choose) {
  if constexpr (chooses_products<Backend>) {
    if (communicator.size() > 1) {
      if (communicator.rank() == 0) choose();
      const std::string text = communicator.rank() == 0 ? backend.products().choices() : std::string();
      const typename Backend::template Buffer<float> room(1);
      const auto all_receive = [&](std::vector<float>& values, float* place) {
        const auto count = static_cast<index>(values.size());
        backend.upload(count, values.data(), place);
        communicator.broadcast(backend, place, count);
        communicator.wait(backend);
        backend.download(count, place, values.data());
      };
      std::vector<float> length(1, static_cast<float>(text.size()));  // exact below 2^24
      all_receive(length, room.data());
      std::vector<float> letters(static_cast<std::size_t>(length[0]), 0.0f);
      for (std::size_t i = 0; i < text.size(); ++i) letters[i] = static_cast<float>(text[i]);
      const typename Backend::template Buffer<float> message(static_cast<index>(letters.size()));
      all_receive(letters, message.data());
      if (communicator.rank() == 0) return;
      try {
        std::string received(letters.size(), '\0');
        for (std::size_t i = 0; i < letters.size(); ++i) received[i] = static_cast<char>(letters[i]);
        backend.products().add_choices(received, "rank 0");
      } catch (const Error&) {  // another device
      }
    }
  }
  choose();
}

// The file of the choices beside a checkpoint.
[[nodiscard]] inline std::filesystem::path choices_beside(const std::filesystem::path& checkpoint) {
  return io::detail::folder_of(checkpoint) / "products.txt";
}

template <class Backend>
void save_choices(const std::filesystem::path& path, const Backend& backend) {
  if constexpr (chooses_products<Backend>) io::replace_file(path, backend.products().choices());
}

// Takes the choices of the file, if it is there. Returns a sentence for the user if they cannot be used, and otherwise
// nothing.
template <class Backend>
[[nodiscard]] std::string load_choices(const std::filesystem::path& path, Backend& backend) {
  if constexpr (chooses_products<Backend>) {
    std::error_code none;
    if (!std::filesystem::exists(path, none)) return "";
    try {
      backend.products().add_choices(io::read_file(path, 1 << 20), path.string());
    } catch (const Error& problem) {
      return fmt::format("{}; algorithms are chosen anew, so that this run's bits differ from those of the first",
                         problem.what());
    }
  }
  return "";
}

}  // namespace TESSERA_ABI
}  // namespace tessera
