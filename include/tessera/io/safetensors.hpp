// The safetensors format: an 8-byte header length, a JSON header, raw tensors. Needs nlohmann-json and xxHash
// (tessera::io).
//
// Files that are written here have checksums in their metadata, where other programs do not look: "xxh3.NAME" is XXH3
// of the bytes of the tensor NAME, "xxh3" that of all else in the header. They are checked when tensors are read.
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
#include <string_view>
#include <vector>

#include "tessera/core/abi.hpp"
#include "tessera/core/errors.hpp"
#include "tessera/io/file.hpp"
#include "tessera/io/hash.hpp"

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

namespace detail {

struct StoredTensor {
  Dtype dtype = Dtype::f32;
  std::vector<std::int64_t> shape;
  std::uint64_t first = 0, last = 0;  // bytes after the header
};

// The entries of a header; the checksums of tensors are among the metadata.
struct Header {
  std::map<std::string, StoredTensor> tensors;
  std::map<std::string, std::string> metadata;
};

inline constexpr const char* header_checksum = "xxh3";

[[nodiscard]] inline std::string checksum_key(const std::string& tensor) {
  return fmt::format("{}.{}", header_checksum, tensor);
}
[[nodiscard]] inline bool is_checksum(std::string_view key) {
  return key == header_checksum || key.starts_with(checksum_key(""));
}

[[nodiscard]] inline std::string checksum_of(const Header& header) {
  HashOfItems hash;
  for (const auto& [key, value] : header.metadata) {
    if (key == header_checksum) continue;
    hash.add(key);
    hash.add(value);
  }
  for (const auto& [name, tensor] : header.tensors) {
    hash.add(name);
    hash.add(describe(tensor.dtype).name);
    hash.add(std::as_bytes(std::span(tensor.shape)));
    hash.add(static_cast<std::int64_t>(tensor.first));
    hash.add(static_cast<std::int64_t>(tensor.last));
  }
  return hash_text(hash.value());
}

}  // namespace detail

// Writes a file with checksums, atomically. The bytes depend on the arguments alone.
inline void write_safetensors(const std::filesystem::path& path, std::span<const TensorToWrite> tensors,
                              const std::map<std::string, std::string>& metadata = {}) {
  detail::Header header{{}, metadata};
  std::uint64_t offset = 0;
  for (const TensorToWrite& tensor : tensors) {
    const std::uint64_t end = offset + tensor.bytes.size();
    header.tensors[tensor.name] = {tensor.dtype, tensor.shape, offset, end};
    header.metadata[detail::checksum_key(tensor.name)] = hash_text(hash(tensor.bytes));
    offset = end;
  }
  header.metadata[detail::header_checksum] = detail::checksum_of(header);
  nlohmann::ordered_json json;
  json["__metadata__"] = header.metadata;
  for (const TensorToWrite& tensor : tensors) {
    const detail::StoredTensor& stored = header.tensors.at(tensor.name);
    json[tensor.name] = {{"dtype", detail::describe(tensor.dtype).name},
                         {"shape", tensor.shape},
                         {"data_offsets", {stored.first, stored.last}}};
  }
  std::string text = json.dump();
  text.resize((text.size() + 7) / 8 * 8, ' ');
  const std::uint64_t length = text.size();
  std::vector<Bytes> parts{std::as_bytes(std::span(&length, 1)), std::as_bytes(std::span(text))};
  for (const TensorToWrite& tensor : tensors) parts.push_back(tensor.bytes);
  replace_file(path, parts);
}

namespace detail {

// Receives the header's JSON event by event; nothing in it may nest deeper than the format needs, so nothing recurses.
// A handler returns false to stop, having set `problem`.
class HeaderReader {
 public:
  Header header;
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
      header.metadata[field_] = value;
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
        return !header.metadata.contains(value) || stop(fmt::format("the metadata key '{}' twice", value));
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
    header.tensors.emplace(name_, std::move(tensor));
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
    take(std::move(reader.header));
    check_coverage(size - data_);
  }

  // Without the checksums.
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

  // The tensor's values in row-major order, converted to Scalar from F64, F32, I64, I32, U8 or BOOL. Throws Error if
  // the file has checksums and the header or the tensor's bytes have others.
  template <class Scalar>
  [[nodiscard]] std::vector<Scalar> read(const std::string& name) const {
    switch (find(name).dtype) {
      case Dtype::f64:
        return convert<double, Scalar>(name);
      case Dtype::f32:
        return convert<float, Scalar>(name);
      case Dtype::i64:
        return convert<std::int64_t, Scalar>(name);
      case Dtype::i32:
        return convert<std::int32_t, Scalar>(name);
      case Dtype::u8:
      case Dtype::boolean:
        return convert<std::uint8_t, Scalar>(name);
      default:
        fail("{}: tensor '{}' has dtype {}, which is not converted here", path_, name,
             detail::describe(dtype(name)).name);
    }
  }

  // Throws Error if the tensor is stored as another type, which read() would convert.
  void expect_dtype(const std::string& name, Dtype dtype) const {
    if (find(name).dtype != dtype)
      fail("{}: tensor '{}' has dtype {}, expected {}", path_, name, detail::describe(find(name).dtype).name,
           detail::describe(dtype).name);
  }

  // Throws Error if the tensor has another shape.
  void expect_shape(const std::string& name, std::span<const std::int64_t> shape) const {
    const std::vector<std::int64_t>& stored = find(name).shape;
    if (!std::equal(stored.begin(), stored.end(), shape.begin(), shape.end()))
      fail("{}: tensor '{}' has shape {}, expected {}", path_, name, detail::shape_text(stored),
           detail::shape_text(shape));
  }

  // Reads a tensor that must have this shape.
  template <class Scalar>
  void read_into(const std::string& name, std::span<const std::int64_t> shape, std::span<Scalar> to) const {
    expect_shape(name, shape);
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
  [[nodiscard]] std::vector<Scalar> convert(const std::string& name) const {
    const detail::StoredTensor& tensor = find(name);
    std::vector<Stored> stored(static_cast<std::size_t>((tensor.last - tensor.first) / sizeof(Stored)));
    file_->read(data_ + tensor.first, std::as_writable_bytes(std::span(stored)));
    check(name, std::as_bytes(std::span(stored)));
    if constexpr (std::is_same_v<Stored, Scalar>) {
      return stored;
    } else {
      std::vector<Scalar> values(stored.size());
      std::transform(stored.begin(), stored.end(), values.begin(), [](Stored one) { return static_cast<Scalar>(one); });
      return values;
    }
  }

  void take(detail::Header&& header) {
    for (const auto& [key, value] : header.metadata)
      (detail::is_checksum(key) ? checksums_ : metadata_).emplace(key, value);
    if (!checksums_.empty()) header_checksum_ = detail::checksum_of(header);
    tensors_ = std::move(header.tensors);
  }

  // A file that has any checksum must have all of them.
  void check(const std::string& name, Bytes bytes) const {
    if (checksums_.empty()) return;
    check_sum("the header", detail::header_checksum, header_checksum_);
    check_sum(fmt::format("tensor '{}'", name), detail::checksum_key(name), hash_text(hash(bytes)));
  }
  void check_sum(const std::string& what, const std::string& key, const std::string& found) const {
    const auto written = checksums_.find(key);
    if (written != checksums_.end() && written->second == found) return;
    fail("{}: {} has the checksum {}, but was written with {}: the file was damaged, or changed by another program",
         path_, what, found, written == checksums_.end() ? std::string("none") : written->second);
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
  std::map<std::string, std::string> metadata_, checksums_;
  std::string header_checksum_;  // of what the header holds
};

}  // namespace io
}  // namespace TESSERA_ABI
}  // namespace tessera
