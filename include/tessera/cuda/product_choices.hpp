// The algorithms that were chosen for matrix products, and their text. Needs no CUDA header.
#pragma once

#include <fmt/format.h>

#include <array>
#include <charconv>
#include <compare>
#include <concepts>
#include <cstddef>
#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <system_error>
#include <type_traits>
#include <utility>

#include "tessera/core/abi.hpp"
#include "tessera/core/arena.hpp"
#include "tessera/core/errors.hpp"
#include "tessera/core/index.hpp"

namespace tessera {
inline namespace TESSERA_ABI {
namespace cuda {

// All that the algorithms of a product depend on. Alignments are in bytes: powers of two up to `alignment`.
struct ProductShape {
  index rows, columns, depth;
  bool left_transposed, right_transposed, add, bias, left_sums, low_operands, low_result;
  int left_alignment, right_alignment, addend_alignment, result_alignment;
  auto operator<=>(const ProductShape&) const = default;
};

// cuBLASLt's description of an algorithm, opaque. Its own type has no name, and nvcc 13.0 cannot keep such in a vector.
using ProductAlgorithm = std::array<std::uint64_t, 8>;
using ProductChoices = std::map<ProductShape, ProductAlgorithm>;

// The library and device that choices are valid for; an algorithm means nothing to others.
struct ProductPlace {
  std::size_t version;  // of cuBLASLt
  std::string device;   // its name
};

namespace detail {

inline constexpr std::string_view choices_title = "tessera-products-1";
inline constexpr index most_extent = index{1} << 40;

// Calls use(value, least, most) with every number of a shape, in the order of the text.
template <class Shape, class Use>
void for_numbers(Shape& shape, Use&& use) {
  for (auto* extent : {&shape.rows, &shape.columns, &shape.depth}) use(*extent, index{1}, most_extent);
  for (auto* flag : {&shape.left_transposed, &shape.right_transposed, &shape.add, &shape.bias, &shape.left_sums,
                     &shape.low_operands, &shape.low_result})
    use(*flag, index{0}, index{1});
  for (auto* bytes : {&shape.left_alignment, &shape.right_alignment, &shape.addend_alignment, &shape.result_alignment})
    use(*bytes, index{1}, alignment);
}

// Takes the text up to `end`, and `end`, off the front; nothing if there is no `end`.
[[nodiscard]] inline std::optional<std::string_view> take_until(std::string_view& text, char end) {
  const std::size_t at = text.find(end);
  if (at == std::string_view::npos) return std::nullopt;
  const std::string_view part = text.substr(0, at);
  text.remove_prefix(at + 1);
  return part;
}

// The number that the whole text is; nothing if it is none, or outside its type.
template <std::integral Number>
[[nodiscard]] std::optional<Number> number_of(std::string_view text, int base = 10) {
  Number number{};
  const auto [end, problem] = std::from_chars(text.data(), text.data() + text.size(), number, base);
  if (problem != std::errc{} || end != text.data() + text.size()) return std::nullopt;
  return number;
}

// A line of the text: the numbers of the shape, then the words of the algorithm, each with a space behind it.
[[nodiscard]] inline std::optional<std::pair<ProductShape, ProductAlgorithm>> choice_of(std::string_view line) {
  std::pair<ProductShape, ProductAlgorithm> choice{};
  bool good = true;
  for_numbers(choice.first, [&](auto& value, index least, index most) {
    const auto word = good ? take_until(line, ' ') : std::nullopt;
    const auto number = word ? number_of<index>(*word) : std::nullopt;
    good = number && *number >= least && *number <= most;
    if (good) value = static_cast<std::remove_reference_t<decltype(value)>>(*number);
  });
  for (std::uint64_t& value : choice.second) {
    const auto word = good ? take_until(line, ' ') : std::nullopt;
    const auto number = word ? number_of<std::uint64_t>(*word, 16) : std::nullopt;
    good = number.has_value();
    if (good) value = *number;
  }
  return good && line.empty() ? std::optional(choice) : std::nullopt;
}

}  // namespace detail

// The text that product_choices_from reads.
[[nodiscard]] inline std::string to_text(const ProductChoices& choices, const ProductPlace& place) {
  std::string text = fmt::format("{}\ncublaslt {}\ndevice {}\n", detail::choices_title, place.version, place.device);
  for (const auto& [shape, algorithm] : choices) {
    detail::for_numbers(shape,
                        [&](auto value, index, index) { text += fmt::format("{} ", static_cast<index>(value)); });
    for (const std::uint64_t word : algorithm) text += fmt::format("{:x} ", word);
    text += '\n';
  }
  return text;
}

// The inverse of to_text. Throws Error if the choices are those of another place, or if the text is none of to_text;
// `where` names its source in the message, as a path.
[[nodiscard]] inline ProductChoices product_choices_from(std::string_view text, const ProductPlace& place,
                                                         std::string_view where) {
  constexpr std::string_view version = "cublaslt ", device = "device ";
  if (detail::take_until(text, '\n') != detail::choices_title)
    fail("{}: is not a file of algorithms of matrix products", where);
  const auto library = detail::take_until(text, '\n'), card = detail::take_until(text, '\n');
  if (!library || !library->starts_with(version) || !card || !card->starts_with(device))
    fail("{}: does not say for which cuBLASLt and device its algorithms are", where);
  if (library->substr(version.size()) != std::to_string(place.version))
    fail("{}: is of version '{}' of cuBLASLt, but this is {}", where, library->substr(version.size()), place.version);
  if (card->substr(device.size()) != place.device)
    fail("{}: is of the device '{}', but this is '{}'", where, card->substr(device.size()), place.device);
  ProductChoices choices;
  for (int number = 4; !text.empty(); ++number) {
    const auto line = detail::take_until(text, '\n');
    const auto choice = line ? detail::choice_of(*line) : std::nullopt;
    if (!choice || !choices.insert(*choice).second)
      fail("{}: line {} is not a shape with its algorithm, or there twice", where, number);
  }
  return choices;
}

}  // namespace cuda
}  // namespace TESSERA_ABI
}  // namespace tessera
