// Layouts: names, shapes and offsets of all tensors of a model, known at compile time.
#pragma once

#include <array>
#include <cstddef>
#include <string_view>
#include <type_traits>

#include "tessera/core/abi.hpp"
#include "tessera/core/arena.hpp"

namespace tessera {
inline namespace TESSERA_ABI {

// The name of a tensor, at most 64 characters, built at compile time: Name{"blocks"} / 0 / "attn" is "blocks.0.attn".
class Name {
 public:
  constexpr Name() = default;
  constexpr explicit Name(std::string_view text) { append(text); }

  [[nodiscard]] constexpr std::string_view view() const { return {text_.data(), size_}; }

  [[nodiscard]] constexpr Name operator/(std::string_view part) const {
    Name joined = *this;
    if (size_ > 0) joined.append(".");
    joined.append(part);
    return joined;
  }

  [[nodiscard]] constexpr Name operator/(int number) const {
    std::array<char, 12> digits{};
    std::size_t first = digits.size();
    do digits[--first] = static_cast<char>('0' + number % 10);
    while ((number /= 10) > 0);
    return *this / std::string_view(digits.data() + first, digits.size() - first);
  }

 private:
  constexpr void append(std::string_view part) {
    for (const char letter : part) text_.at(size_++) = letter;
  }

  std::array<char, 64> text_{};
  std::size_t size_ = 0;
};

// Extents of a tensor, outermost first, as public checkpoints store it; at most 4.
struct Shape {
  std::array<int, 4> extents{};
  int rank = 0;

  constexpr Shape() = default;
  template <class... Extents>
  constexpr explicit Shape(Extents... sizes) : extents{sizes...}, rank(sizeof...(Extents)) {}

  [[nodiscard]] constexpr index size() const {
    index product = 1;
    for (int axis = 0; axis < rank; ++axis) product *= extents[static_cast<std::size_t>(axis)];
    return product;
  }
  constexpr bool operator==(const Shape&) const = default;
};

// The initial value of a tensor (docs/method.md, 2.6). sincos_2d is the position table of 2.5 for a tensor
// (1, tokens, width); sincos_2d_columns_first that of MAE, with row and column exchanged (10.2).
struct Initial {
  enum class Kind { constant, uniform, normal, sincos_2d, sincos_2d_columns_first };
  Kind kind = Kind::constant;
  double scale = 0.0;  // the constant; a of U(-a, a); the standard deviation

  static constexpr Initial constant(double value) { return {Kind::constant, value}; }
  static constexpr Initial uniform(double bound) { return {Kind::uniform, bound}; }
  static constexpr Initial normal(double deviation) { return {Kind::normal, deviation}; }
  static constexpr Initial sincos_2d() { return {Kind::sincos_2d, 1.0}; }
  static constexpr Initial sincos_2d_columns_first() { return {Kind::sincos_2d_columns_first, 1.0}; }
};

// trained: a parameter with a gradient. frozen: a parameter without one, which the moving average still includes.
// statistic: BatchNorm's running mean or variance, in a flat buffer of its own; neither the optimizer nor the moving
// average changes it.
enum class Role { trained, frozen, statistic };

// One tensor of a layout.
struct Entry {
  Name name;
  Shape shape;
  Role role = Role::trained;
  Initial initial;
  index offset = 0;  // in scalars, from the start of the flat buffer of its role
  [[nodiscard]] constexpr index size() const { return shape.size(); }
};

// Elements [first, last) of the flat buffers, which one rank updates. Their moments start at element `state` of the
// rank's own buffers.
struct Part {
  index first, last, state;
};

// Entries start at multiples of this many scalars, which are multiples of 256 bytes for scalars of 2 bytes or more.
inline constexpr index entry_alignment = alignment / 2;

// The offset of the next entry in each flat buffer, in scalars.
struct LayoutCursor {
  index parameters = 0, statistics = 0;

  constexpr index advance(Role role, const Shape& shape) {
    index& cursor = role == Role::statistic ? statistics : parameters;
    const index offset = cursor;
    cursor += divide_up(shape.size(), entry_alignment) * entry_alignment;
    return offset;
  }
};

// A layer lists its tensors in one function, declare(visit, name): it calls visit(name, shape, role, initial) for each
// tensor in order and returns the results as the layer's Parameters. The three visitors: Count counts the entries, Fill
// makes their table, Bind makes pointers into flat buffers.
namespace layout {

struct Count {
  using Leaf = char;
  LayoutCursor cursor{};
  std::size_t entries = 0;

  constexpr Leaf operator()(const Name&, const Shape& shape, Role role, Initial) {
    cursor.advance(role, shape);
    ++entries;
    return {};
  }
};

template <std::size_t count>
struct Fill {
  using Leaf = char;
  std::array<Entry, count> entries{};
  LayoutCursor cursor{};
  std::size_t next = 0;

  constexpr Leaf operator()(const Name& name, const Shape& shape, Role role, Initial initial) {
    entries[next++] = {name, shape, role, initial, cursor.advance(role, shape)};
    return {};
  }
};

template <class Leaf_>
struct Bind {
  using Leaf = Leaf_;
  Leaf parameters, statistics;
  LayoutCursor cursor{};

  constexpr Leaf operator()(const Name&, const Shape& shape, Role role, Initial) {
    const Leaf base = role == Role::statistic ? statistics : parameters;
    const index offset = cursor.advance(role, shape);
    return base == nullptr ? base : base + offset;
  }
};

template <class Model>
consteval Count count() {
  Count visit;
  Model::declare(visit, Name{});
  return visit;
}

template <class Model>
consteval auto table() {
  Fill<count<Model>().entries> visit;
  Model::declare(visit, Name{});
  return visit.entries;
}

}  // namespace layout

// The table of Model's tensors, and the sizes of its flat buffers in scalars.
template <class Model>
struct Layout {
  static constexpr auto entries = layout::table<Model>();
  static constexpr index parameters = layout::count<Model>().cursor.parameters;
  static constexpr index statistics = layout::count<Model>().cursor.statistics;

  // Number of scalars over the entries for which `wanted(entry)` holds, alignment gaps left out.
  template <class Wanted>
  static constexpr index count(Wanted wanted) {
    index total = 0;
    for (const Entry& entry : entries) total += wanted(entry) ? entry.size() : 0;
    return total;
  }
  static constexpr index parameter_count = count([](const Entry& entry) { return entry.role != Role::statistic; });
  static constexpr index trained_count = count([](const Entry& entry) { return entry.role == Role::trained; });
};

// Model's Parameters with pointers into the flat buffers; Leaf is Parameter<Scalar> (core/scalar.hpp) or a plain
// pointer. Either buffer may be null: the pointers of its tensors are then null.
template <class Model, class Leaf>
[[nodiscard]] constexpr auto bind(Leaf parameters, std::type_identity_t<Leaf> statistics) {
  layout::Bind<Leaf> visit{parameters, statistics};
  return Model::declare(visit, Name{});
}

}  // namespace TESSERA_ABI
}  // namespace tessera
