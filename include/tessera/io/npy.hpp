// NumPy's .npy files of xtensor's arrays.
#pragma once

#include <fmt/format.h>

#include <array>
#include <bit>
#include <charconv>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <filesystem>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <system_error>
#include <type_traits>
#include <vector>
#include <xtensor/xadapt.hpp>
#include <xtensor/xarray.hpp>
#include <xtensor/xnpy.hpp>

#include "tessera/core/abi.hpp"
#include "tessera/core/errors.hpp"
#include "tessera/io/file.hpp"

namespace tessera {
inline namespace TESSERA_ABI {
namespace io {

// Writes an xtensor expression, atomically.
template <class Expression>
void write_npy(const std::filesystem::path& path, const xt::xexpression<Expression>& values) {
  replace_file(path, std::string_view(xt::dump_npy(values)));
}

// Writes a row-major (rows x columns) matrix.
template <class Scalar>
void write_npy(const std::filesystem::path& path, const Scalar* values, std::size_t rows, std::size_t columns) {
  const std::array<std::size_t, 2> shape{rows, columns};
  write_npy(path, xt::adapt(values, rows * columns, xt::no_ownership(), shape));
}

// True if the file starts as .npy files do.
[[nodiscard]] inline bool is_npy(const std::filesystem::path& path) {
  const detail::Descriptor file(path, O_RDONLY);
  std::array<char, 6> start{};
  if (file.size() < start.size()) return false;
  file.read(0, std::as_writable_bytes(std::span(start)));
  return std::string_view(start.data(), start.size()) == "\x93NUMPY";
}

namespace detail {

// How a header names a type, e.g. '<f4'.
template <class Scalar>
[[nodiscard]] std::string npy_type() {
  const char order = sizeof(Scalar) == 1 ? '|' : std::endian::native == std::endian::little ? '<' : '>';
  const char kind = std::is_floating_point_v<Scalar> ? 'f' : std::is_signed_v<Scalar> ? 'i' : 'u';
  return fmt::format("'{}{}{}'", order, kind, sizeof(Scalar));
}

// The shape that a header states of a row-major array of `type`; nothing if it states anything else.
[[nodiscard]] inline std::optional<std::vector<std::size_t>> npy_shape(std::string_view header, std::string_view type) {
  const auto skip = [&header](std::string_view piece) {
    while (header.starts_with(' ')) header.remove_prefix(1);
    if (!header.starts_with(piece)) return false;
    header.remove_prefix(piece.size());
    return true;
  };
  if (!skip("{'descr':") || !skip(type) || !skip(",") || !skip("'fortran_order':") || !skip("False,") ||
      !skip("'shape':") || !skip("("))
    return {};
  std::vector<std::size_t> shape;
  while (!skip(")")) {
    const auto [end, code] = std::from_chars(header.data(), header.data() + header.size(), shape.emplace_back());
    if (code != std::errc{}) return {};
    header.remove_prefix(static_cast<std::size_t>(end - header.data()));
    if (!skip(",") && !header.starts_with(')')) return {};
  }
  skip(",");
  return skip("}") && skip("\n") && header.empty() ? std::optional(shape) : std::nullopt;
}

// The number of values in an array of this shape; nothing if its strides exceed `limit`.
[[nodiscard]] inline std::optional<std::size_t> npy_count(const std::vector<std::size_t>& shape, std::size_t limit) {
  std::size_t product = 1;
  bool empty = false;
  for (const std::size_t extent : shape) {
    if (extent > limit / product) return {};
    empty = empty || extent == 0;
    product *= extent == 0 ? 1 : extent;
  }
  return empty ? 0 : product;
}

}  // namespace detail

// Reads an array of Scalar in row-major order. Throws Error that names the file for another type or order, or if the
// file is not exactly as long as its header says. (xtensor's own reader takes the header's word for it: it allocates
// any shape, and does not notice where the file ends.)
template <class Scalar>
[[nodiscard]] xt::xarray<Scalar> read_npy(const std::filesystem::path& path) {
  constexpr std::size_t limit = std::size_t{1} << 36;
  const std::string file = read_file(path, limit);
  const std::string_view bytes = file, magic("\x93NUMPY\x01\x00", 8);
  if (!bytes.starts_with(magic) || bytes.size() < 10) fail("{}: is not an .npy file of version 1.0", path.string());
  const auto length =
      static_cast<std::size_t>(static_cast<std::uint8_t>(bytes[8]) + 256 * static_cast<std::uint8_t>(bytes[9]));
  const std::string_view header = bytes.substr(10, length), data = bytes.substr(10 + header.size());
  const std::string_view stated = header.substr(0, header.find('}') + 1);
  const auto shape = detail::npy_shape(header, detail::npy_type<Scalar>());
  if (!shape)
    fail("{}: is not an .npy file of {} in row-major order; its header states {}", path.string(),
         detail::npy_type<Scalar>(), stated);
  const auto count = detail::npy_count(*shape, limit);
  if (!count || data.size() != *count * sizeof(Scalar))
    fail("{}: holds {} bytes of values, not as many as its header states: {}", path.string(), data.size(), stated);
  auto values = xt::xarray<Scalar>::from_shape(*shape);
  if (!data.empty()) std::memcpy(values.data(), data.data(), data.size());
  return values;
}

}  // namespace io
}  // namespace TESSERA_ABI
}  // namespace tessera
