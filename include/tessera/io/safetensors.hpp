// The safetensors format: an 8-byte header length, a JSON header, raw tensors. Needs nlohmann-json (tessera::io).
#pragma once

#include <algorithm>
#include <array>
#include <bit>
#include <cstdint>
#include <map>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <vector>

#include "tessera/core/abi.hpp"
#include "tessera/core/errors.hpp"
#include "tessera/io/file.hpp"

namespace tessera {
inline namespace TESSERA_ABI {
namespace io {

static_assert(std::endian::native == std::endian::little, "tessera: safetensors are little-endian, as is this code");

enum class Dtype { f64, f32, f16, bf16, i64, i32, u8, boolean };

namespace detail {

struct DtypeName {
  Dtype dtype;
  std::string_view name;
  std::uint64_t bytes;
};
inline constexpr std::array<DtypeName, 8> dtype_names{{{Dtype::f64, "F64", 8},
                                                       {Dtype::f32, "F32", 4},
                                                       {Dtype::f16, "F16", 2},
                                                       {Dtype::bf16, "BF16", 2},
                                                       {Dtype::i64, "I64", 8},
                                                       {Dtype::i32, "I32", 4},
                                                       {Dtype::u8, "U8", 1},
                                                       {Dtype::boolean, "BOOL", 1}}};

[[nodiscard]] inline const DtypeName& describe(Dtype dtype) {
  return dtype_names.at(static_cast<std::size_t>(dtype));
}

[[nodiscard]] inline std::string shape_text(std::span<const std::int64_t> shape) {
  return fmt::format("[{}]", fmt::join(shape, ", "));
}

}  // namespace detail

// One tensor of a file to be written; `bytes` must stay alive until then.
struct TensorToWrite {
  std::string name;
  Dtype dtype;
  std::vector<std::int64_t> shape;
  Bytes bytes;
};

// Writes a file, atomically. The bytes depend on the arguments alone.
inline void write_safetensors(const std::filesystem::path& path, std::span<const TensorToWrite> tensors,
                              const std::map<std::string, std::string>& metadata = {}) {
  nlohmann::ordered_json header;
  if (!metadata.empty()) header["__metadata__"] = metadata;
  std::uint64_t offset = 0;
  for (const TensorToWrite& tensor : tensors) {
    header[tensor.name] = {{"dtype", detail::describe(tensor.dtype).name},
                           {"shape", tensor.shape},
                           {"data_offsets", {offset, offset + tensor.bytes.size()}}};
    offset += tensor.bytes.size();
  }
  std::string text = header.dump();
  text.resize((text.size() + 7) / 8 * 8, ' ');
  const std::uint64_t length = text.size();
  std::vector<Bytes> parts{std::as_bytes(std::span(&length, 1)), std::as_bytes(std::span(text))};
  for (const TensorToWrite& tensor : tensors) parts.push_back(tensor.bytes);
  replace_file(path, parts);
}

namespace detail {

struct StoredTensor {
  Dtype dtype = Dtype::f32;
  std::vector<std::int64_t> shape;
  std::uint64_t first = 0, last = 0;  // bytes after the header
};

// Receives the header's JSON event by event; nothing in it may nest deeper than the format needs, so nothing recurses.
// A handler returns false to stop, having set `problem`.
class HeaderReader {
 public:
  std::map<std::string, StoredTensor> tensors;
  std::map<std::string, std::string> metadata;
  std::string problem;

  bool null() { return stop("a null"); }
  bool boolean(bool) { return stop("a truth value"); }
  bool number_float(double, const std::string&) { return stop("a number that is not an integer"); }
  bool number_integer(std::int64_t value) { return stop(fmt::format("the negative number {}", value)); }
  bool binary(nlohmann::json::binary_t&) { return stop("binary data"); }

  bool number_unsigned(std::uint64_t value) {
    if (depth_ != 3) return stop(fmt::format("the number {}", value));
    if (field_ == "shape" && shape_.size() == 8) return reject("has more than 8 dimensions");
    if (value > (std::uint64_t{1} << 62)) return reject(fmt::format("has the number {}", value));
    (field_ == "shape" ? shape_ : offsets_).push_back(static_cast<std::int64_t>(value));
    return offsets_.size() <= 2 || reject("has more than two data_offsets");
  }

  bool string(std::string& value) {
    if (depth_ == 2 && name_ == "__metadata__") {
      metadata[field_] = value;
      return true;
    }
    if (depth_ != 2 || field_ != "dtype") return stop(fmt::format("the text '{}'", value.substr(0, 40)));
    for (const DtypeName& known : dtype_names)
      if (known.name == value) dtype_ = known.dtype;
    return dtype_.has_value() || reject(fmt::format("has the unknown dtype '{}'", value.substr(0, 40)));
  }

  bool start_object(std::size_t) {
    if (++depth_ > 2) return stop("an object inside a tensor's entry");
    return true;
  }
  bool end_object() {
    if (--depth_ == 1 && name_ != "__metadata__") return finish_tensor();
    return true;
  }
  bool start_array(std::size_t) {
    if (depth_ != 2 || name_ == "__metadata__" || (field_ != "shape" && field_ != "data_offsets"))
      return stop("a list");
    depth_ = 3;
    (field_ == "shape" ? has_shape_ : has_offsets_) = true;
    return true;
  }
  bool end_array() {
    depth_ = 2;
    return true;
  }

  bool key(std::string& value) {
    if (depth_ == 2) {
      field_ = value;
      if (name_ == "__metadata__")
        return !metadata.contains(value) || stop(fmt::format("the metadata key '{}' twice", value));
      if (!fields_.emplace(value, true).second) return reject(fmt::format("has the field '{}' twice", value));
      return value == "dtype" || value == "shape" || value == "data_offsets" ||
             reject(fmt::format("has the unknown field '{}'", value.substr(0, 40)));
    }
    name_ = value;
    fields_.clear();
    shape_.clear();
    offsets_.clear();
    dtype_.reset();
    has_shape_ = has_offsets_ = false;
    if (value.empty() || value.size() > 1024)
      return stop(fmt::format("a tensor name of {} bytes (1 to 1024 are allowed)", value.size()));
    if (!names_.emplace(value, true).second) return stop(fmt::format("the name '{}' twice", value));
    return names_.size() <= 1000000 || stop("more than 1000000 tensors");
  }

  bool parse_error(std::size_t position, const std::string&, const nlohmann::detail::exception&) {
    problem = fmt::format("the header is not valid JSON at its byte {}", position);
    return false;
  }

 private:
  bool stop(const std::string& what) {
    problem = fmt::format("the header holds {} where none belongs", what);
    return false;
  }
  bool reject(const std::string& what) {
    problem = fmt::format("tensor '{}' {}", name_, what);
    return false;
  }

  bool finish_tensor() {
    if (!dtype_ || !has_shape_ || offsets_.size() != 2) return reject("lacks dtype, shape or data_offsets");
    StoredTensor tensor{*dtype_, shape_, static_cast<std::uint64_t>(offsets_[0]),
                        static_cast<std::uint64_t>(offsets_[1])};
    if (tensor.last < tensor.first) return reject(fmt::format("ends at byte {} before it starts", tensor.last));
    std::uint64_t bytes = describe(*dtype_).bytes;
    for (const std::int64_t extent : shape_)
      if (__builtin_mul_overflow(bytes, static_cast<std::uint64_t>(extent), &bytes))
        return reject(fmt::format("has the impossible shape {}", shape_text(shape_)));
    if (bytes != tensor.last - tensor.first)
      return reject(fmt::format("has {} bytes, but its shape {} needs {}", tensor.last - tensor.first,
                                shape_text(shape_), bytes));
    tensors.emplace(name_, std::move(tensor));
    return true;
  }

  int depth_ = 0;
  std::string name_, field_;
  std::map<std::string, bool> names_, fields_;
  std::optional<Dtype> dtype_;
  std::vector<std::int64_t> shape_, offsets_;
  bool has_shape_ = false, has_offsets_ = false;
};

}  // namespace detail

// A file that was opened and whose header was found consistent: lengths, dtypes, shapes and offsets agree with each
// other and with the file's size. Nothing in it is trusted before that, and no more memory is taken than the file is
// long.
class Safetensors {
 public:
  static constexpr std::uint64_t header_limit = 16 << 20;

  // Throws Error, one sentence that names the file, the tensor and the value.
  explicit Safetensors(const std::filesystem::path& path)
      : path_(path.string()), file_(std::make_shared<const detail::Descriptor>(path, O_RDONLY)) {
    const std::uintmax_t size = file_->size();
    std::uint64_t length = 0;
    if (size < sizeof(length)) fail("{}: holds {} bytes, too few for a safetensors file", path_, size);
    file_->read(0, std::as_writable_bytes(std::span(&length, 1)));
    if (length > header_limit || length > size - sizeof(length))
      fail("{}: states a header of {} bytes, but the file holds {} (limit {})", path_, length, size, header_limit);
    std::string text(static_cast<std::size_t>(length), '\0');
    file_->read(sizeof(length), std::as_writable_bytes(std::span(text)));
    if (!text.starts_with('{')) fail("{}: is not a safetensors file: its header does not start with '{{'", path_);
    data_ = sizeof(length) + length;

    detail::HeaderReader reader;
    if (!nlohmann::json::sax_parse(text, &reader)) fail("{}: {}", path_, reader.problem);
    tensors_ = std::move(reader.tensors);
    metadata_ = std::move(reader.metadata);
    check_coverage(size - data_);
  }

  [[nodiscard]] const std::map<std::string, std::string>& metadata() const { return metadata_; }
  [[nodiscard]] bool contains(const std::string& name) const { return tensors_.contains(name); }
  [[nodiscard]] const std::vector<std::int64_t>& shape(const std::string& name) const { return find(name).shape; }
  [[nodiscard]] Dtype dtype(const std::string& name) const { return find(name).dtype; }

  // In alphabetical order.
  [[nodiscard]] std::vector<std::string> names() const {
    std::vector<std::string> names;
    for (const auto& [name, tensor] : tensors_) names.push_back(name);
    return names;
  }

  // The tensor's values in row-major order, converted to Scalar from F64, F32, I64, I32, U8 or BOOL.
  template <class Scalar>
  [[nodiscard]] std::vector<Scalar> read(const std::string& name) const {
    const detail::StoredTensor& tensor = find(name);
    switch (tensor.dtype) {
      case Dtype::f64:
        return convert<double, Scalar>(tensor);
      case Dtype::f32:
        return convert<float, Scalar>(tensor);
      case Dtype::i64:
        return convert<std::int64_t, Scalar>(tensor);
      case Dtype::i32:
        return convert<std::int32_t, Scalar>(tensor);
      case Dtype::u8:
      case Dtype::boolean:
        return convert<std::uint8_t, Scalar>(tensor);
      default:
        fail("{}: tensor '{}' has dtype {}, which is not converted here", path_, name,
             detail::describe(tensor.dtype).name);
    }
  }

  // Throws Error if the tensor is stored as another type, which read() would convert.
  void expect_dtype(const std::string& name, Dtype dtype) const {
    if (find(name).dtype != dtype)
      fail("{}: tensor '{}' has dtype {}, expected {}", path_, name, detail::describe(find(name).dtype).name,
           detail::describe(dtype).name);
  }

  // Reads a tensor that must have this shape.
  template <class Scalar>
  void read_into(const std::string& name, std::span<const std::int64_t> shape, std::span<Scalar> to) const {
    const std::vector<std::int64_t>& stored = find(name).shape;
    if (!std::equal(stored.begin(), stored.end(), shape.begin(), shape.end()))
      fail("{}: tensor '{}' has shape {}, expected {}", path_, name, detail::shape_text(stored),
           detail::shape_text(shape));
    const std::vector<Scalar> values = read<Scalar>(name);
    if (values.size() != to.size())
      fail("{}: tensor '{}' holds {} values, expected {}", path_, name, values.size(), to.size());
    std::copy(values.begin(), values.end(), to.begin());
  }

 private:
  [[nodiscard]] const detail::StoredTensor& find(const std::string& name) const {
    const auto found = tensors_.find(name);
    if (found == tensors_.end()) fail("{}: has no tensor '{}'", path_, name);
    return found->second;
  }

  template <class Stored, class Scalar>
  [[nodiscard]] std::vector<Scalar> convert(const detail::StoredTensor& tensor) const {
    std::vector<Stored> stored(static_cast<std::size_t>((tensor.last - tensor.first) / sizeof(Stored)));
    file_->read(data_ + tensor.first, std::as_writable_bytes(std::span(stored)));
    if constexpr (std::is_same_v<Stored, Scalar>) {
      return stored;
    } else {
      std::vector<Scalar> values(stored.size());
      std::transform(stored.begin(), stored.end(), values.begin(), [](Stored one) { return static_cast<Scalar>(one); });
      return values;
    }
  }

  // The tensors must fill the data without holes or overlap.
  void check_coverage(std::uint64_t size) const {
    std::vector<std::pair<const std::string, const detail::StoredTensor*>> order;
    for (const auto& [name, tensor] : tensors_) order.emplace_back(name, &tensor);
    std::vector<std::size_t> sorted(order.size());
    for (std::size_t i = 0; i < sorted.size(); ++i) sorted[i] = i;
    std::sort(sorted.begin(), sorted.end(), [&](std::size_t a, std::size_t b) {
      const auto key = [&](std::size_t i) { return std::pair(order[i].second->first, order[i].second->last); };
      return key(a) < key(b);
    });
    std::uint64_t end = 0;
    for (const std::size_t i : sorted) {
      const auto& [name, tensor] = order[i];
      if (tensor->first != end)
        fail("{}: tensor '{}' starts at byte {} of the data, expected {}", path_, name, tensor->first, end);
      end = tensor->last;
    }
    if (end != size) fail("{}: holds {} bytes of data, but its tensors take {}", path_, size, end);
  }

  std::string path_;
  std::shared_ptr<const detail::Descriptor> file_;
  std::uint64_t data_ = 0;
  std::map<std::string, detail::StoredTensor> tensors_;
  std::map<std::string, std::string> metadata_;
};

}  // namespace io
}  // namespace TESSERA_ABI
}  // namespace tessera
