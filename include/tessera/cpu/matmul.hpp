// Matrix products on one thread, as policies. The backend cuts a product into tiles and gives each tile to a
// thread, so a policy never starts threads of its own.
#pragma once

#include <Eigen/Core>
#include <array>
#include <atomic>
#include <type_traits>

#include "tessera/core/abi.hpp"
#include "tessera/core/errors.hpp"
#include "tessera/core/free_memory.hpp"
#include "tessera/core/index.hpp"
#include "tessera/core/scalar.hpp"
#include "tessera/core/simd.hpp"
#include "tessera/cpu/packed_matmul.hpp"

#if TESSERA_HAS_ONEDNN
#include <dnnl.h>
#include <omp.h>
#endif
#if TESSERA_HAS_CBLAS
#include <cblas.h>
extern "C" void openblas_set_num_threads(int) __attribute__((weak));
#endif

namespace tessera {
inline namespace TESSERA_ABI {
namespace cpu {

// Every policy has supports<Scalar> and
//   multiply(m, n, k, a, b, c, c_stride, accumulate): C (m x n) = A (m x k) B (k x n), added to C if `accumulate`.
// A policy that can also pack B once for many products is derived from Panels; one that packs both factors of a weight
// gradient has block_rows and what belongs to it, as PackedMatmul.
// A policy whose library takes memory in its first product, and ends the program where it gets none, also has
//   first_bytes(threads): how much that is, and 0 once it has it;
//   prepare(threads): lets it take that. Throws Error if there is too little.

namespace detail {
// Throws Error unless `left` bytes are enough for what a library takes at first.
inline void check_room(const char* library, index wanted, index left) {
  if (wanted > left)
    fail(
        "not enough memory: {} takes {} for its first matrix products, but {} are left; a smaller batch or fewer "
        "threads "
        "leave more",
        library, memory_text(wanted), memory_text(left));
}
}  // namespace detail

// Eigen; any scalar but bf16.
struct EigenMatmul {
  static constexpr const char* name = "Eigen";
  template <class Scalar>
  static constexpr bool supports = !std::is_same_v<Scalar, bf16>;

  template <class Scalar>
  static void multiply(index m, index n, index k, Operand<Scalar> a, Operand<Scalar> b, Scalar* c, index c_stride,
                       bool accumulate) {
    using Matrix = Eigen::Matrix<Scalar, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;
    using Stride = Eigen::OuterStride<>;
    const auto view = [](Operand<Scalar> x, index rows, index columns) {
      return Eigen::Map<const Matrix, 0, Stride>(x.data, rows, columns, Stride(x.stride));
    };
    Eigen::Map<Matrix, 0, Stride> result(c, m, n, Stride(c_stride));
    if (!accumulate) result.setZero();
    const auto left = a.transposed ? view(a, k, m) : view(a, m, k);
    const auto right = b.transposed ? view(b, n, k) : view(b, k, n);
    if (a.transposed && b.transposed)
      result.noalias() += left.transpose() * right.transpose();
    else if (a.transposed)
      result.noalias() += left.transpose() * right;
    else if (b.transposed)
      result.noalias() += left * right.transpose();
    else
      result.noalias() += left * right;
  }
};

#if TESSERA_HAS_CBLAS
// Any library with the CBLAS interface; float and double.
struct CblasMatmul {
  static constexpr const char* name = "CBLAS";
  template <class Scalar>
  static constexpr bool supports = std::is_same_v<Scalar, float> || std::is_same_v<Scalar, double>;

  // OpenBLAS 0.3.21 takes 128 MiB of address space for each thread that multiplies, of which it touches little. Without
  // them it asks again without end.
  [[nodiscard]] static index first_bytes(int) { return 0; }
  static void prepare(int threads = 1) {
    static const bool single_threaded = [&] {
      if (openblas_set_num_threads != nullptr) {
        detail::check_room(name, index{threads} * (128 << 20), address_space_left());
        openblas_set_num_threads(1);
      }
      return true;
    }();
    static_cast<void>(single_threaded);
  }

  template <class Scalar>
  static void multiply(index m, index n, index k, Operand<Scalar> a, Operand<Scalar> b, Scalar* c, index c_stride,
                       bool accumulate) {
    prepare();
    const auto gemm = [] {
      if constexpr (std::is_same_v<Scalar, float>)
        return cblas_sgemm;
      else
        return cblas_dgemm;
    }();
    const auto order = [](bool transposed) { return transposed ? CblasTrans : CblasNoTrans; };
    gemm(CblasRowMajor, order(a.transposed), order(b.transposed), static_cast<int>(m), static_cast<int>(n),
         static_cast<int>(k), Scalar(1), a.data, static_cast<int>(a.stride), b.data, static_cast<int>(b.stride),
         Scalar(accumulate), c, static_cast<int>(c_stride));
  }
};
#endif

#if TESSERA_HAS_ONEDNN
// oneDNN's sgemm; float only. Version 2.6 uses the stack pointer for data: a signal handler that may run meanwhile
// needs a stack of its own (sigaltstack, SA_ONSTACK), as StopSignals has.
struct OneDnnMatmul {
  static constexpr const char* name = "oneDNN";
  template <class Scalar>
  static constexpr bool supports = std::is_same_v<Scalar, float>;

  // Version 2.6 compiles its kernels in the first product and, with AVX-512, those for small products with a transposed
  // factor in the first such product. Both together take 18 MiB, and 6 MiB with AVX2. Without that memory it jumps to a
  // kernel that is not there.
  [[nodiscard]] static index first_bytes(int) { return prepared() ? 0 : index{24} << 20; }
  static void prepare(int threads = 1) {
    static const bool done = [&] {
      detail::check_room(name, first_bytes(threads), free_memory());
      constexpr index side = 4;
      const std::array<float, side * side> ones{};
      std::array<float, side * side> result{};
      for (const bool transposed : {false, true})
        product(side, side, side, {ones.data(), side}, {ones.data(), side, transposed}, result.data(), side, false);
      return prepared() = true;
    }();
    static_cast<void>(done);
  }

  static void multiply(index m, index n, index k, Operand<float> a, Operand<float> b, float* c, index c_stride,
                       bool accumulate) {
    prepare();
    product(m, n, k, a, b, c, c_stride, accumulate);
  }

 private:
  static std::atomic<bool>& prepared() {
    static std::atomic<bool> is = false;
    return is;
  }

  static void product(index m, index n, index k, Operand<float> a, Operand<float> b, float* c, index c_stride,
                      bool accumulate) {
    omp_set_num_threads(1);
    const auto order = [](bool transposed) { return transposed ? 'T' : 'N'; };
    const dnnl_status_t status = dnnl_sgemm(order(a.transposed), order(b.transposed), m, n, k, 1.0f, a.data, a.stride,
                                            b.data, b.stride, accumulate ? 1.0f : 0.0f, c, c_stride);
    if (status == dnnl_out_of_memory)
      fail("not enough memory: oneDNN has no room for a {} x {} x {} matrix product; a smaller batch leaves more", m, n,
           k);
    if (status != dnnl_success)
      fail("oneDNN refused a {} x {} x {} matrix product (status {})", m, n, k, static_cast<int>(status));
  }
};
#endif

namespace detail {

// True if products round their factors and results to Scalar.
template <class Scalar>
inline constexpr bool rounds = !std::is_same_v<Scalar, Accumulator<Scalar>>;

// y (m x n) = x (m x k) b. Where products round, x is rounded into low (m x k), and y is that of sums (m x n); else
// both may be null.
template <class Matmul, class Scalar>
void multiply_sums(index m, index n, index k, const Accumulator<Scalar>* x, Operand<Scalar> b, Scalar* low,
                   Accumulator<Scalar>* sums, Scalar* y) {
  if constexpr (rounds<Scalar>) {
    const auto round = [](auto a) { return a; };
    simd::transform(m * k, low, round, x);
    Matmul::multiply(m, n, k, Operand<Scalar>{low, k}, b, sums, n, false);
    simd::transform(m * n, y, round, static_cast<const Accumulator<Scalar>*>(sums));
  } else {
    Matmul::multiply(m, n, k, Operand<Scalar>{x, k}, b, y, n, false);
  }
}

}  // namespace detail

// The weights of linear layers by packed panels, and all other products by another policy: a library that packs faster
// for one product alone.
template <class Other>
struct Packed : Panels {
  static constexpr const char* name = Other::name;
  template <class Scalar>
  static constexpr bool supports = Other::template supports<Scalar>;

  template <class Scalar>
  static void multiply(index m, index n, index k, Operand<Scalar> a, Operand<Scalar> b, Scalar* c, index c_stride,
                       bool accumulate) {
    Other::multiply(m, n, k, a, b, c, c_stride, accumulate);
  }

  [[nodiscard]] static index first_bytes(int threads) requires requires { Other::first_bytes(1); }
  { return Other::first_bytes(threads); }
  static void prepare(int threads = 1) requires requires { Other::prepare(1); }
  { Other::prepare(threads); }
};

namespace detail {
template <class Scalar, class First, class... Rest>
struct FirstSupporting : std::conditional_t<First::template supports<Scalar>, std::type_identity<First>,
                                            FirstSupporting<Scalar, Rest...>> {};
template <class Scalar>
struct FirstSupporting<Scalar, PackedMatmul> : std::type_identity<PackedMatmul> {};
}  // namespace detail

// The fastest policy for Scalar among those that the build found.
template <class Scalar>
using DefaultMatmul = typename detail::FirstSupporting<Scalar,
#if TESSERA_HAS_ONEDNN
                                                       Packed<OneDnnMatmul>,
#endif
#if TESSERA_HAS_CBLAS
                                                       Packed<CblasMatmul>,
#endif
                                                       PackedMatmul>::type;

}  // namespace cpu
}  // namespace TESSERA_ABI
}  // namespace tessera
