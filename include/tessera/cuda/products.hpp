// Matrix products by cuBLASLt, with an algorithm for every shape.
#pragma once

#include <cublasLt.h>
#include <cuda_runtime.h>

#include <algorithm>
#include <array>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <map>
#include <mutex>
#include <optional>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>
#include <vector>

#include "tessera/core/abi.hpp"
#include "tessera/core/arena.hpp"
#include "tessera/core/scalar.hpp"
#include "tessera/cuda/errors.hpp"
#include "tessera/cuda/product_choices.hpp"
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

template <class Operand, class Result>
[[nodiscard]] ProductShape shape_of(const Product<Operand, Result>& p) {
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

// The choices of a process for a device. All of its backends use them, so that the same shape has the same algorithm,
// and with it the same bits, in every trainer.
class ChoiceTable {
 public:
  [[nodiscard]] static ChoiceTable& of_device(int number) {
    static std::mutex mutex;
    static std::map<int, ChoiceTable> tables;
    const std::lock_guard lock(mutex);
    return tables[number];
  }

  [[nodiscard]] std::optional<ProductAlgorithm> find(const ProductShape& shape) const {
    const std::lock_guard lock(mutex_);
    const auto found = choices_.find(shape);
    return found == choices_.end() ? std::nullopt : std::optional(found->second);
  }
  // Adds the choice if there is none for the shape. Returns the one that there is now.
  ProductAlgorithm keep(const ProductShape& shape, const ProductAlgorithm& algorithm) {
    const std::lock_guard lock(mutex_);
    return choices_.try_emplace(shape, algorithm).first->second;
  }
  void keep(const ProductChoices& choices) {
    const std::lock_guard lock(mutex_);
    choices_.insert(choices.begin(), choices.end());
  }
  // Drops a choice that does not run here.
  void forget(const ProductShape& shape) {
    const std::lock_guard lock(mutex_);
    forgotten_ += static_cast<int>(choices_.erase(shape));
  }
  void clear() {
    const std::lock_guard lock(mutex_);
    choices_.clear();
    forgotten_ = 0;
  }
  [[nodiscard]] int forgotten() const {
    const std::lock_guard lock(mutex_);
    return forgotten_;
  }
  [[nodiscard]] ProductChoices all() const {
    const std::lock_guard lock(mutex_);
    return choices_;
  }

 private:
  mutable std::mutex mutex_;
  ProductChoices choices_;
  int forgotten_ = 0;
};

// The description of one shape, and the algorithms for it, the one that is used first.
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
    // The others would sum pieces of the depth in the result's type.
    prefer(CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK,
           static_cast<std::uint32_t>(CUBLASLT_REDUCTION_SCHEME_NONE | CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE));
    prefer(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, static_cast<std::uint32_t>(s.right_alignment));
    prefer(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES, static_cast<std::uint32_t>(s.left_alignment));
    prefer(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, static_cast<std::uint32_t>(s.addend_alignment));
    prefer(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES, static_cast<std::uint32_t>(s.result_alignment));
    std::array<cublasLtMatmulHeuristicResult_t, candidates> proposed{};
    int count = 0;
    status_ = cublasLtMatmulAlgoGetHeuristic(handle, description, right_.get(), left_.get(), result_.get(),
                                             result_.get(), preference, candidates, proposed.data(), &count);
    if (status_ == CUBLAS_STATUS_NOT_SUPPORTED) return;
    check(status_, "cublasLtMatmulAlgoGetHeuristic");
    status_ = CUBLAS_STATUS_NOT_SUPPORTED;
    for (int i = 0; i < count; ++i)
      if (const auto& one = proposed[static_cast<std::size_t>(i)]; one.state == CUBLAS_STATUS_SUCCESS)
        algorithms_.push_back(std::bit_cast<ProductAlgorithm>(one.algo));
  }

  // The result of cuBLASLt's last call.
  [[nodiscard]] cublasStatus_t status() const noexcept { return status_; }

  // Runs the first algorithm that cuBLASLt can start, and forgets those before it. False if there is none.
  template <class Operand, class Result>
  [[nodiscard]] bool run(cublasLtHandle_t handle, cudaStream_t stream, std::byte* workspace,
                         const Product<Operand, Result>& p) {
    while (!algorithms_.empty()) {
      if (start(handle, stream, workspace, p, algorithms_.front())) return true;
      algorithms_.erase(algorithms_.begin());
    }
    return false;
  }

  // Puts the algorithm that the table has for the shape first, else the fastest, which the table has from then on. Runs
  // it at least once, so that its kernel is loaded before a recording. False if no algorithm runs.
  template <class Operand, class Result>
  [[nodiscard]] bool choose(cublasLtHandle_t handle, cudaStream_t stream, std::byte* workspace,
                            const Product<Operand, Result>& p, ChoiceTable& table) {
    if (std::exchange(chosen_, true)) return !algorithms_.empty();
    const ProductShape shape = shape_of(p);
    if (const auto known = table.find(shape)) {
      if (put_first(*known) && start(handle, stream, workspace, p, algorithms_.front())) return true;
      table.forget(shape);
    }
    measure(handle, stream, workspace, p);
    if (algorithms_.empty()) return false;
    put_first(table.keep(shape, algorithms_.front()));
    return true;
  }

 private:
  static cudaDataType_t operand(const ProductShape& s) { return s.low_operands ? CUDA_R_16BF : CUDA_R_32F; }
  static cudaDataType_t result(const ProductShape& s) { return s.low_result ? CUDA_R_16BF : CUDA_R_32F; }

  template <class Operand, class Result>
  [[nodiscard]] bool start(cublasLtHandle_t handle, cudaStream_t stream, std::byte* workspace,
                           const Product<Operand, Result>& p, const ProductAlgorithm& algorithm) {
    if (p.bias != nullptr) set(CUBLASLT_MATMUL_DESC_BIAS_POINTER, p.bias);
    if (p.left_sums != nullptr) set(CUBLASLT_MATMUL_DESC_BIAS_POINTER, p.left_sums);
    const float scale = p.scale, keep = p.addend == nullptr ? 0.0f : 1.0f;
    const Result* const addend = p.addend == nullptr ? p.result : p.addend;
    const auto of_library = std::bit_cast<cublasLtMatmulAlgo_t>(algorithm);
    status_ = cublasLtMatmul(handle, description_.get(), &scale, p.right, right_.get(), p.left, left_.get(), &keep,
                             addend, result_.get(), p.result, result_.get(), &of_library, workspace,
                             static_cast<std::size_t>(product_workspace), stream);
    return status_ == CUBLAS_STATUS_SUCCESS;
  }

  // Runs every algorithm, forgets those that cannot be started, and puts the fastest first.
  template <class Operand, class Result>
  void measure(cublasLtHandle_t handle, cudaStream_t stream, std::byte* workspace, const Product<Operand, Result>& p) {
    constexpr int runs = 5;
    const Event begin, end;
    float best = std::numeric_limits<float>::infinity();
    std::vector<ProductAlgorithm> good;
    for (const ProductAlgorithm& algorithm : algorithms_) {
      if (!start(handle, stream, workspace, p, algorithm)) continue;
      good.push_back(algorithm);
      if (algorithms_.size() == 1) break;
      begin.record(stream);
      for (int i = 0; i < runs; ++i) static_cast<void>(start(handle, stream, workspace, p, algorithm));
      end.record(stream);
      if (const float time = end.since(begin); time < best) {
        best = time;
        std::swap(good.front(), good.back());
      }
    }
    algorithms_ = std::move(good);
  }

  // False if cuBLASLt does not propose that algorithm here.
  bool put_first(const ProductAlgorithm& wanted) {
    const auto found = std::find(algorithms_.begin(), algorithms_.end(), wanted);
    if (found == algorithms_.end()) return false;
    std::iter_swap(algorithms_.begin(), found);
    return true;
  }

  template <class Value>
  void set(cublasLtMatmulDescAttributes_t attribute, const Value& value) {
    check(cublasLtMatmulDescSetAttribute(description_.get(), attribute, &value, sizeof(value)),
          "cublasLtMatmulDescSetAttribute");
  }

  Layout left_, right_, result_;
  Owned<cublasLtMatmulDesc_t, cublasLtMatmulDescDestroy> description_;
  std::vector<ProductAlgorithm> algorithms_;
  cublasStatus_t status_ = CUBLAS_STATUS_SUCCESS;
  bool chosen_ = false;
};

}  // namespace detail

// The products of one device, which is the calling thread's. Operands are float or bf16, sums are float, without TF32.
class Products {
 public:
  explicit Products(int device) : table_(detail::ChoiceTable::of_device(device)) {
    cudaDeviceProp properties;
    check(cudaGetDeviceProperties(&properties, device), "cudaGetDeviceProperties");
    place_ = {cublasLtGetVersion(), properties.name};
    cublasLtHandle_t handle = nullptr;
    check(cublasLtCreate(&handle), "cublasLtCreate");
    handle_.reset(handle);
  }

  // While `choosing`, a call does not compute its product for the step: it times the algorithms, with the operands as
  // they are, and the fastest is used from then on, by every backend of the process on this device. Without that, the
  // first one that cuBLASLt proposes and can start is used.
  [[nodiscard]] bool choosing() const noexcept { return choosing_; }
  void set_choosing(bool choosing) noexcept { choosing_ = choosing; }

  // The choices for this device, as text.
  [[nodiscard]] std::string choices() const { return to_text(table_.all(), place_); }
  // Adds choices to those of the process; a shape that has one keeps it. Throws Error, which names `where`, if the text
  // is not of `choices`, or of another version of cuBLASLt or another device.
  void add_choices(std::string_view text, std::string_view where) {
    table_.keep(product_choices_from(text, place_, where));
  }
  // Choices that were measured anew since cuBLASLt did not propose or start them.
  [[nodiscard]] int forgotten_choices() const { return table_.forgotten(); }

  // workspace: product_workspace bytes of the device. False if cuBLASLt has no algorithm for the product's shape,
  // epilogue and types that runs.
  template <class Operand, class Result>
  [[nodiscard]] bool try_multiply(cudaStream_t stream, std::byte* workspace, const Product<Operand, Result>& product) {
    detail::ProductPlan& one = plan(product);
    return choosing_ ? one.choose(handle_.get(), stream, workspace, product, table_)
                     : one.run(handle_.get(), stream, workspace, product);
  }
  // The same; throws Error instead.
  template <class Operand, class Result>
  void multiply(cudaStream_t stream, std::byte* workspace, const Product<Operand, Result>& product) {
    if (!try_multiply(stream, workspace, product))
      fail("cuBLASLt has no algorithm that runs for the product ({} x {}) ({} x {}) in {}: {}", product.rows,
           product.depth, product.depth, product.columns, std::is_same_v<Operand, bf16> ? "bf16" : "float",
           cublasLtGetStatusString(plan(product).status()));
  }

 private:
  template <class Operand, class Result>
  detail::ProductPlan& plan(const Product<Operand, Result>& product) {
    const auto shape = detail::shape_of(product);
    const auto found = plans_.find(shape);
    return found != plans_.end() ? found->second : plans_.try_emplace(shape, handle_.get(), shape).first->second;
  }

  detail::ChoiceTable& table_;
  ProductPlace place_;
  Owned<cublasLtHandle_t, cublasLtDestroy> handle_;
  std::map<ProductShape, detail::ProductPlan> plans_;
  bool choosing_ = false;
};

}  // namespace cuda
}  // namespace TESSERA_ABI
}  // namespace tessera
