// NumPy's .npy files of xtensor's arrays.
#pragma once

#include <fmt/format.h>

#include <array>
#include <bit>
#include <charconv>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <new>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <system_error>
#include <type_traits>
#include <utility>
#include <vector>
#include <xtensor/xadapt.hpp>
#include <xtensor/xarray.hpp>
#include <xtensor/xnpy.hpp>
#include <xtensor/xoperation.hpp>

#include "tessera/core/abi.hpp"
#include "tessera/core/errors.hpp"
#include "tessera/core/index.hpp"
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

// An open .npy file of version 1.0 or 2.0, whose header has been read.
class NpyFile {
 public:
  explicit NpyFile(const std::filesystem::path& path) : path_(path.string()), file_(path, O_RDONLY) {
    constexpr std::size_t most = 1 << 16;  // more than the header of any array of numbers
    std::array<char, 12> start{};
    size_ = static_cast<std::size_t>(file_.size());
    file_.read(0, std::as_writable_bytes(std::span(start)).first(smaller(size_, start.size())));
    const std::string_view bytes(start.data(), start.size());
    const bool second = bytes.starts_with(std::string_view("\x93NUMPY\x02\x00", 8));
    values_at_ = second ? 12 : 10;
    if ((!second && !bytes.starts_with(std::string_view("\x93NUMPY\x01\x00", 8))) || size_ < values_at_)
      fail("{}: is not an .npy file of version 1.0 or 2.0", path_);
    std::size_t length = 0;
    for (std::size_t i = values_at_; i-- > 8;) length = length << 8 | static_cast<std::uint8_t>(start[i]);
    if (length > smaller(size_ - values_at_, most))
      fail("{}: states a header of {} bytes; {} bytes follow, and at most {} are read", path_, length,
           size_ - values_at_, most);
    header_.resize(length);
    file_.read(values_at_, std::as_writable_bytes(std::span(header_)));
    values_at_ += length;
  }

  // The header's statement, for messages.
  [[nodiscard]] std::string_view stated() const { return std::string_view(header_).substr(0, header_.find('}') + 1); }

  template <class Scalar>
  [[nodiscard]] bool holds() const {
    return npy_shape(header_, npy_type<Scalar>()).has_value();
  }

  // Reads the values into an array that has the memory for them. Throws Error unless they are of type Scalar in
  // row-major order, and as many as the header states.
  template <class Scalar>
  [[nodiscard]] xt::xarray<Scalar> values() const {
    const auto shape = npy_shape(header_, npy_type<Scalar>());
    if (!shape)
      fail("{}: is not an .npy file of {} in row-major order; its header states {}", path_, npy_type<Scalar>(),
           stated());
    const std::size_t bytes = size_ - values_at_;
    const auto count = npy_count(*shape, std::size_t{1} << 36);
    if (!count || bytes != *count * sizeof(Scalar))
      fail("{}: holds {} bytes of values, not as many as its header states: {}", path_, bytes, stated());
    try {
      auto values = xt::xarray<Scalar>::from_shape(*shape);
      file_.read(values_at_, std::as_writable_bytes(std::span(values.data(), *count)));
      return values;
    } catch (const std::bad_alloc&) {
      fail("not enough memory: {} holds {} bytes of values", path_, bytes);
    }
  }

 private:
  std::string path_, header_;
  Descriptor file_;
  std::size_t size_ = 0, values_at_ = 0;  // of the file, in bytes
};

}  // namespace detail

// Reads an array of Scalar in row-major order. Throws Error that names the file for another type or order, or if the
// file is not exactly as long as its header says. (xtensor's own reader takes the header's word for it: it allocates
// any shape, and does not notice where the file ends.)
template <class Scalar>
[[nodiscard]] xt::xarray<Scalar> read_npy(const std::filesystem::path& path) {
  return detail::NpyFile(path).values<Scalar>();
}

// Reads an array of integers of any type. Throws Error, which names the file, if it holds other values, or one that
// is no Integer.
template <class Integer>
[[nodiscard]] xt::xarray<Integer> read_npy_integers(const std::filesystem::path& path) {
  const detail::NpyFile file(path);
  xt::xarray<Integer> integers;
  const auto read = [&]<class Stored>(std::type_identity<Stored>) {
    if (!file.holds<Stored>()) return false;
    const xt::xarray<Stored> values = file.values<Stored>();
    for (const Stored value : values)
      if (!std::in_range<Integer>(value))
        fail("{}: holds the value {}, which is no integer of {} bits", path.string(), value, 8 * sizeof(Integer));
    integers = xt::cast<Integer>(values);
    return true;
  };
  const auto any = [&]<class... Stored>(std::type_identity<Stored>... types) { return (read(types) || ...); };
  using std::type_identity;
  if (!any(type_identity<std::int8_t>{}, type_identity<std::int16_t>{}, type_identity<std::int32_t>{},
           type_identity<std::int64_t>{}, type_identity<std::uint8_t>{}, type_identity<std::uint16_t>{},
           type_identity<std::uint32_t>{}, type_identity<std::uint64_t>{}))
    fail("{}: is not an .npy file of integers in row-major order; its header states {}", path.string(), file.stated());
  return integers;
}

}  // namespace io
}  // namespace TESSERA_ABI
}  // namespace tessera
