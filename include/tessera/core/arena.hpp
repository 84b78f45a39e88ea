// The arena that holds activations during a step, and flat buffers.
#pragma once

#include <cstddef>
#include <span>

#include "tessera/core/abi.hpp"
#include "tessera/core/errors.hpp"
#include "tessera/core/index.hpp"

namespace tessera {
inline namespace TESSERA_ABI {

// Every flat buffer and every entry in it starts at a multiple of this many bytes.
inline constexpr index alignment = 256;

// A stack of activations in memory that Memory allocates. A step takes its activations from the arena, in the same
// order every time, and gives everything back by the end of the step.
//
// An arena is planning until commit(): take() returns nullptr and only records the height of the stack, and operations
// return without computing. One step run while planning thus finds the size; commit() allocates it, and later steps
// allocate nothing.
template <class Memory>
class Arena {
 public:
  // Restores the stack's height when it goes out of scope.
  class Frame {
   public:
    explicit Frame(Arena& arena) : arena_(arena), height_(arena.height_) {}
    Frame(const Frame&) = delete;
    Frame& operator=(const Frame&) = delete;
    ~Frame() { arena_.height_ = height_; }

   private:
    Arena& arena_;
    index height_;
  };

  [[nodiscard]] bool planning() const noexcept { return memory_.data() == nullptr; }
  [[nodiscard]] index peak_bytes() const noexcept { return peak_; }

  // Uninitialised memory for `count` scalars, valid until the enclosing frame ends; nullptr while planning. Throws
  // Error if the step takes more than was planned.
  template <class Scalar>
  [[nodiscard]] Scalar* take(index count) {
    const index start = height_;
    height_ += divide_up(count * static_cast<index>(sizeof(Scalar)), alignment) * alignment;
    if (planning()) {
      peak_ = height_ > peak_ ? height_ : peak_;
      return nullptr;
    }
    if (height_ > peak_)
      fail("the step needs {} bytes of activations, but {} were planned; plan again for this batch", height_, peak_);
    return reinterpret_cast<Scalar*>(memory_.data() + start);
  }

  // Allocates what planning found and ends planning. Throws Error if there is not enough memory.
  void commit() { memory_ = Memory(peak_ > 0 ? peak_ : alignment); }

  // Frees the memory and starts planning again.
  void reset() {
    memory_ = Memory();
    height_ = peak_ = 0;
  }

 private:
  Memory memory_;
  index height_ = 0, peak_ = 0;
};

// A flat buffer of `count` elements, zero at first, in memory that Memory allocates. The constructor throws Error if
// there is not enough memory.
template <class Memory, class Element>
class Buffer {
 public:
  Buffer() = default;
  explicit Buffer(index count) : memory_(count * static_cast<index>(sizeof(Element))), size_(count) {}

  [[nodiscard]] Element* data() const noexcept { return reinterpret_cast<Element*>(memory_.data()); }
  [[nodiscard]] index size() const noexcept { return size_; }
  [[nodiscard]] std::span<Element> span() const noexcept { return {data(), static_cast<std::size_t>(size_)}; }

 private:
  Memory memory_;
  index size_ = 0;
};

}  // namespace TESSERA_ABI
}  // namespace tessera
