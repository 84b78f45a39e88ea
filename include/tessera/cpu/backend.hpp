// The CPU backend: a scalar type, a matrix product, threads and memory. Its operations are the free functions of this
// folder; operations.hpp has their contracts.
#pragma once

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <span>
#include <string>

#include "tessera/core/abi.hpp"
#include "tessera/core/arena.hpp"
#include "tessera/core/errors.hpp"
#include "tessera/core/free_memory.hpp"
#include "tessera/core/rows.hpp"
#include "tessera/core/simd.hpp"
#include "tessera/core/thread_pool.hpp"
#include "tessera/cpu/lane.hpp"
#include "tessera/cpu/matmul.hpp"

namespace tessera {
inline namespace TESSERA_ABI {
namespace cpu {

// Zeroed bytes, aligned to `alignment`.
class Memory {
 public:
  Memory() = default;

  // Throws OutOfMemory if the machine does not have that much.
  explicit Memory(index bytes) : size_(divide_up(bytes, alignment) * alignment) {
    if (size_ == 0) return;
    data_.reset(static_cast<std::byte*>(
        std::aligned_alloc(static_cast<std::size_t>(alignment), static_cast<std::size_t>(size_))));
    if (!data_)
      throw OutOfMemory(fmt::format(
          "not enough memory: {} in one piece are needed; a smaller batch or model needs less", memory_text(bytes)));
    std::memset(data_.get(), 0, static_cast<std::size_t>(size_));
  }

  [[nodiscard]] std::byte* data() const noexcept { return data_.get(); }
  [[nodiscard]] index size() const noexcept { return size_; }

 private:
  struct Free {
    void operator()(std::byte* bytes) const noexcept { std::free(bytes); }
  };
  std::unique_ptr<std::byte, Free> data_;
  index size_ = 0;
};

template <class Element>
using Buffer = tessera::Buffer<Memory, Element>;

// A recorded step. The CPU records nothing: replay() runs the step itself.
struct Recording {
  static void reset() noexcept {}
};

// Scalar: float, double or bf16. With bf16, activations, their gradients and the factors of products are stored in
// bf16; everything is computed in float.
template <class Scalar_, class Matmul_ = DefaultMatmul<Scalar_>>
class Backend {
  static_assert(std::is_same_v<Scalar_, float> || std::is_same_v<Scalar_, double> || std::is_same_v<Scalar_, bf16>,
                "tessera: the CPU backend computes in float, double or bf16");
  static_assert(Matmul_::template supports<Scalar_>,
                "tessera: this matrix product policy does not support the backend's scalar type");

 public:
  using Scalar = Scalar_;
  using Matmul = Matmul_;
  static constexpr bool on_host = true;  // programs read and write its memory without upload and download
  using Arena = tessera::Arena<Memory>;
  using Recording = cpu::Recording;
  using Lane = cpu::Lane;
  template <class Element>
  using Buffer = cpu::Buffer<Element>;

  // threads = 0 takes every processor.
  explicit Backend(int threads = 0) : pool_(threads) {}

  [[nodiscard]] ThreadPool& pool() noexcept { return pool_; }
  [[nodiscard]] Arena& arena() noexcept { return arena_; }

  // While memory is planned, operations take what they need from the arena and compute nothing: this is said here, and
  // in for_pieces, alone.
  [[nodiscard]] bool planning() const noexcept { return arena_.planning(); }
  template <class Body>
  void compute(Body&& body) {
    if (!planning()) body();
  }
  // body(first, last, worker) for pieces of [0, count), `grain` long, in parallel (ThreadPool::for_pieces).
  template <class Body>
  void for_pieces(index count, index grain, Body&& body) {
    if (!planning()) pool_.for_pieces(count, grain, body);
  }

  [[nodiscard]] std::string name() const { return fmt::format("{} threads", pool_.threads()); }

  // The calls that a device queues run at once here, and memory of the backend is memory of the host.
  static void wait() noexcept {}
  template <class Element>
  static void upload(index count, const Element* from, Element* to) {
    std::copy_n(from, count, to);
  }
  template <class Element>
  static void download(index count, const Element* from, Element* to) {
    std::copy_n(from, count, to);
  }
  template <class Element>
  void copy(index count, const Element* from, Element* to) const {
    if (!planning()) std::copy_n(from, count, to);
  }
  template <class Element>
  void clear(index count, Element* to) const {
    if (!planning()) std::fill_n(to, count, Element{});
  }
  template <class Body>
  static void replay(Recording&, Body&& body) {
    body();
  }
  // Nothing is chosen, but the product's library takes its memory. Throws Error if there is too little.
  template <class Body>
  void choose_products(Body&&) {
    if constexpr (has_library) Matmul::prepare(pool_.threads());
  }
  // Bytes that the process may still take, without what the product's library takes at first.
  [[nodiscard]] index free_bytes() const {
    const index free = free_memory();
    if constexpr (has_library) return larger(index{0}, free - Matmul::first_bytes(pool_.threads()));
    return free;
  }

 private:
  static constexpr bool has_library = requires {
    Matmul::prepare(1);
    Matmul::first_bytes(1);
  };

  ThreadPool pool_;
  Arena arena_;
};

// Rows per piece of a loop over rows of `columns` scalars: about 32 KiB, so that a piece stays in the first cache.
[[nodiscard]] constexpr index row_grain(index columns) {
  const index rows = 8192 / columns;
  return rows < 1 ? 1 : rows;
}

// body(row) for every row of `columns` scalars, in parallel.
template <class Scalar, class Matmul, class Body>
void for_rows(Backend<Scalar, Matmul>& backend, index rows, index columns, Body&& body) {
  backend.for_pieces(rows, row_grain(columns), [&](index first, index last, int) {
    for (index row = first; row < last; ++row) body(row);
  });
}

}  // namespace cpu
}  // namespace TESSERA_ABI
}  // namespace tessera
