// Matrix products by cuBLASLt, with an algorithm for every shape.
#pragma once

#include <cublasLt.h>
#include <cuda_runtime.h>

#include <algorithm>
#include <array>
#include <bit>
#include <compare>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <map>
#include <type_traits>
#include <utility>

#include "tessera/core/abi.hpp"
#include "tessera/core/arena.hpp"
#include "tessera/core/scalar.hpp"
#include "tessera/cuda/errors.hpp"
#include "tessera/cuda/stream.hpp"

namespace tessera {
inline namespace TESSERA_ABI {
namespace cuda {

// result (rows x columns) = scale * left (rows x depth) right (depth x columns) + addend + bias, all row-major and
// without gaps.
template <class Operand, class Result>
struct Product {
  index rows, columns, depth;
  const Operand* left;
  bool left_transposed;  // stored as depth x rows
  const Operand* right;
  bool right_transposed;  // stored as columns x depth
  Result* result;
  const Result* addend = nullptr;  // like result
  const Result* bias = nullptr;    // (columns), added to every row
  Result* left_sums = nullptr;     // (rows), receives the sums of left over the depth
  float scale = 1;
};

// Workspace in bytes: the size that cuBLASLt recommends for Hopper.
inline constexpr index product_workspace = index{32} << 20;

namespace detail {

// The bytes, a power of two up to `alignment`, that an address is a multiple of.
[[nodiscard]] inline int alignment_of(const void* address) {
  const auto low_bits = std::bit_cast<std::uintptr_t>(address) | static_cast<std::uintptr_t>(alignment);
  return static_cast<int>(low_bits & ~(low_bits - 1));
}

struct ProductShape {
  index rows, columns, depth;
  bool left_transposed, right_transposed, add, bias, left_sums, low_operands, low_result;
  int left_alignment, right_alignment, addend_alignment, result_alignment;
  auto operator<=>(const ProductShape&) const = default;

  template <class Operand, class Result>
  static ProductShape of(const Product<Operand, Result>& p) {
    return {p.rows,
            p.columns,
            p.depth,
            p.left_transposed,
            p.right_transposed,
            p.addend != nullptr,
            p.bias != nullptr,
            p.left_sums != nullptr,
            std::is_same_v<Operand, bf16>,
            std::is_same_v<Result, bf16>,
            alignment_of(p.left),
            alignment_of(p.right),
            alignment_of(p.addend == nullptr ? p.result : p.addend),
            alignment_of(p.result)};
  }
};

class Layout {
 public:
  // A row-major (rows x columns) matrix is cuBLASLt's column-major (columns x rows).
  Layout(cudaDataType_t type, index rows, index columns) {
    cublasLtMatrixLayout_t layout = nullptr;
    check(cublasLtMatrixLayoutCreate(&layout, type, static_cast<std::uint64_t>(columns),
                                     static_cast<std::uint64_t>(rows), columns),
          "cublasLtMatrixLayoutCreate");
    layout_.reset(layout);
  }
  [[nodiscard]] cublasLtMatrixLayout_t get() const noexcept { return layout_.get(); }

 private:
  Owned<cublasLtMatrixLayout_t, cublasLtMatrixLayoutDestroy> layout_;
};

// The description of one shape, and the algorithms for it, the best first.
class ProductPlan {
 public:
  static constexpr int candidates = 16;

  ProductPlan(cublasLtHandle_t handle, const ProductShape& s)
      : left_(operand(s), s.left_transposed ? s.depth : s.rows, s.left_transposed ? s.rows : s.depth),
        right_(operand(s), s.right_transposed ? s.columns : s.depth, s.right_transposed ? s.depth : s.columns),
        result_(result(s), s.rows, s.columns) {
    cublasLtMatmulDesc_t description = nullptr;
    check(cublasLtMatmulDescCreate(&description, CUBLAS_COMPUTE_32F, CUDA_R_32F), "cublasLtMatmulDescCreate");
    description_.reset(description);
    // Column-major, the product is right^T left^T: cuBLASLt's A is our right, its B our left.
    set(CUBLASLT_MATMUL_DESC_TRANSA, s.right_transposed ? CUBLAS_OP_T : CUBLAS_OP_N);
    set(CUBLASLT_MATMUL_DESC_TRANSB, s.left_transposed ? CUBLAS_OP_T : CUBLAS_OP_N);
    if (s.bias) set(CUBLASLT_MATMUL_DESC_EPILOGUE, CUBLASLT_EPILOGUE_BIAS);
    if (s.left_sums) set(CUBLASLT_MATMUL_DESC_EPILOGUE, CUBLASLT_EPILOGUE_BGRADB);
    if (s.bias || s.left_sums) set(CUBLASLT_MATMUL_DESC_BIAS_DATA_TYPE, result(s));

    cublasLtMatmulPreference_t preference = nullptr;
    check(cublasLtMatmulPreferenceCreate(&preference), "cublasLtMatmulPreferenceCreate");
    const Owned<cublasLtMatmulPreference_t, cublasLtMatmulPreferenceDestroy> owned(preference);
    const auto prefer = [&](cublasLtMatmulPreferenceAttributes_t attribute, const auto& value) {
      check(cublasLtMatmulPreferenceSetAttribute(preference, attribute, &value, sizeof(value)),
            "cublasLtMatmulPreferenceSetAttribute");
    };
    prefer(CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, static_cast<std::size_t>(product_workspace));
    prefer(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, static_cast<std::uint32_t>(s.right_alignment));
    prefer(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES, static_cast<std::uint32_t>(s.left_alignment));
    prefer(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, static_cast<std::uint32_t>(s.addend_alignment));
    prefer(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES, static_cast<std::uint32_t>(s.result_alignment));
    const cublasStatus_t status =
        cublasLtMatmulAlgoGetHeuristic(handle, description, right_.get(), left_.get(), result_.get(), result_.get(),
                                       preference, candidates, algorithms_.data(), &found_);
    if (status != CUBLAS_STATUS_NOT_SUPPORTED) check(status, "cublasLtMatmulAlgoGetHeuristic");
  }

  [[nodiscard]] bool supported() const noexcept { return found_ > 0; }

  template <class Operand, class Result>
  void run(cublasLtHandle_t handle, cudaStream_t stream, std::byte* workspace, const Product<Operand, Result>& p,
           int algorithm = 0) {
    if (p.bias != nullptr) set(CUBLASLT_MATMUL_DESC_BIAS_POINTER, p.bias);
    if (p.left_sums != nullptr) set(CUBLASLT_MATMUL_DESC_BIAS_POINTER, p.left_sums);
    const float scale = p.scale, keep = p.addend == nullptr ? 0.0f : 1.0f;
    const Result* const addend = p.addend == nullptr ? p.result : p.addend;
    check(cublasLtMatmul(handle, description_.get(), &scale, p.right, right_.get(), p.left, left_.get(), &keep, addend,
                         result_.get(), p.result, result_.get(), &algorithms_[static_cast<std::size_t>(algorithm)].algo,
                         workspace, static_cast<std::size_t>(product_workspace), stream),
          "cublasLtMatmul");
  }

  // Runs every algorithm and puts the fastest first.
  template <class Operand, class Result>
  void choose(cublasLtHandle_t handle, cudaStream_t stream, std::byte* workspace, const Product<Operand, Result>& p) {
    if (std::exchange(chosen_, true) || found_ == 1) return;
    constexpr int runs = 5;
    const Event start, end;
    float best = std::numeric_limits<float>::infinity();
    int fastest = 0;
    for (int algorithm = 0; algorithm < found_; ++algorithm) {
      run(handle, stream, workspace, p, algorithm);
      start.record(stream);
      for (int i = 0; i < runs; ++i) run(handle, stream, workspace, p, algorithm);
      end.record(stream);
      const float time = end.since(start);
      if (time >= best) continue;
      best = time;
      fastest = algorithm;
    }
    std::swap(algorithms_[0], algorithms_[static_cast<std::size_t>(fastest)]);
  }

 private:
  static cudaDataType_t operand(const ProductShape& s) { return s.low_operands ? CUDA_R_16BF : CUDA_R_32F; }
  static cudaDataType_t result(const ProductShape& s) { return s.low_result ? CUDA_R_16BF : CUDA_R_32F; }

  template <class Value>
  void set(cublasLtMatmulDescAttributes_t attribute, const Value& value) {
    check(cublasLtMatmulDescSetAttribute(description_.get(), attribute, &value, sizeof(value)),
          "cublasLtMatmulDescSetAttribute");
  }

  Layout left_, right_, result_;
  Owned<cublasLtMatmulDesc_t, cublasLtMatmulDescDestroy> description_;
  std::array<cublasLtMatmulHeuristicResult_t, candidates> algorithms_{};
  int found_ = 0;
  bool chosen_ = false;
};

}  // namespace detail

// The products of one device. Operands are float or bf16, sums are float, without TF32.
class Products {
 public:
  Products() {
    cublasLtHandle_t handle = nullptr;
    check(cublasLtCreate(&handle), "cublasLtCreate");
    handle_.reset(handle);
  }

  // While `choosing`, a call does not compute its product for the step: it times the algorithms, with the operands as
  // they are, and the fastest is used from then on. Without that, the first one that cuBLASLt proposes is used.
  [[nodiscard]] bool choosing() const noexcept { return choosing_; }
  void set_choosing(bool choosing) noexcept { choosing_ = choosing; }

  // True if cuBLASLt has an algorithm for this shape, epilogue and types.
  template <class Operand, class Result>
  [[nodiscard]] bool supports(const Product<Operand, Result>& product) {
    return plan(product).supported();
  }

  // workspace: product_workspace bytes of the device. Throws Error if cuBLASLt has no algorithm.
  template <class Operand, class Result>
  void multiply(cudaStream_t stream, std::byte* workspace, const Product<Operand, Result>& product) {
    detail::ProductPlan& one = plan(product);
    if (!one.supported())
      fail("cuBLASLt has no algorithm for the product ({} x {}) ({} x {}) in {}", product.rows, product.depth,
           product.depth, product.columns, std::is_same_v<Operand, bf16> ? "bf16" : "float");
    if (choosing_)
      one.choose(handle_.get(), stream, workspace, product);
    else
      one.run(handle_.get(), stream, workspace, product);
  }

 private:
  template <class Operand, class Result>
  detail::ProductPlan& plan(const Product<Operand, Result>& product) {
    const auto shape = detail::ProductShape::of(product);
    const auto found = plans_.find(shape);
    return found != plans_.end() ? found->second : plans_.try_emplace(shape, handle_.get(), shape).first->second;
  }

  Owned<cublasLtHandle_t, cublasLtDestroy> handle_;
  std::map<detail::ProductShape, detail::ProductPlan> plans_;
  bool choosing_ = false;
};

}  // namespace cuda
}  // namespace TESSERA_ABI
}  // namespace tessera
