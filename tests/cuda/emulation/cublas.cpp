// cuBLASLt's functions on the emulated device: what the library asks of them, by plain loops.
#include <cublasLt.h>

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <mutex>
#include <vector>

#include "emulation.hpp"
#include "tessera/core/scalar.hpp"

namespace emulation {

namespace {

struct Preference {
  std::uint32_t schemes = CUBLASLT_REDUCTION_SCHEME_MASK;
};

struct Layout {
  cudaDataType type;
  std::int64_t rows, columns, leading, stride = 0;
  std::int32_t batch = 1;
};

struct Description {
  cublasOperation_t transpose_a = CUBLAS_OP_N, transpose_b = CUBLAS_OP_N;
  cublasLtEpilogue_t epilogue = CUBLASLT_EPILOGUE_DEFAULT;
  void* bias = nullptr;
  cudaDataType bias_type = CUDA_R_32F;
};

float read(const void* data, cudaDataType type, std::int64_t at) {
  return type == CUDA_R_32F ? static_cast<const float*>(data)[at]
                            : static_cast<float>(static_cast<const tessera::bf16*>(data)[at]);
}
void write(void* data, cudaDataType type, std::int64_t at, float value) {
  if (type == CUDA_R_32F)
    static_cast<float*>(data)[at] = value;
  else
    static_cast<tessera::bf16*>(data)[at] = tessera::bf16(value);
}

// op(matrix) as floats, row by row of `rows` x `columns`.
std::vector<float> unpacked(const void* data, const Layout& layout, cublasOperation_t op, std::int64_t batch,
                            bool depth_last) {
  const bool transposed = op == CUBLAS_OP_T;
  const std::int64_t rows = transposed ? layout.columns : layout.rows,
                     columns = transposed ? layout.rows : layout.columns;
  std::vector<float> values(static_cast<std::size_t>(rows * columns));
  for (std::int64_t r = 0; r < rows; ++r)
    for (std::int64_t c = 0; c < columns; ++c) {
      const std::int64_t stored = transposed ? r * layout.leading + c : c * layout.leading + r;
      values[static_cast<std::size_t>(depth_last ? r * columns + c : c * rows + r)] =
          read(data, layout.type, batch * layout.stride + stored);
    }
  return values;
}

// Algorithms differ in the order of their sums.
enum Algorithm : std::uint64_t { forwards, backwards, halves, odd_last, in_place, algorithms };
constexpr std::uint32_t scheme_of(std::uint64_t algorithm) {
  return algorithm == halves     ? CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE
         : algorithm == in_place ? CUBLASLT_REDUCTION_SCHEME_INPLACE
                                 : CUBLASLT_REDUCTION_SCHEME_NONE;
}

float dot(std::uint64_t algorithm, std::int64_t depth, const float* x, const float* y, cudaDataType result) {
  float sum = 0, other = 0;
  switch (algorithm) {
    case backwards:
      for (std::int64_t k = depth; k-- > 0;) sum += x[k] * y[k];
      return sum;
    case halves:
      for (std::int64_t k = 0; k < depth; ++k) (2 * k < depth ? sum : other) += x[k] * y[k];
      return sum + other;
    case odd_last:
      for (std::int64_t k = 0; k < depth; k += 2) sum += x[k] * y[k];
      for (std::int64_t k = 1; k < depth; k += 2) sum += x[k] * y[k];
      return sum;
    case in_place:
      for (std::int64_t k = 0; k < depth; ++k) {
        write(&other, result, 0, sum + x[k] * y[k]);
        sum = read(&other, result, 0);
      }
      return sum;
    default:
      for (std::int64_t k = 0; k < depth; ++k) sum += x[k] * y[k];
      return sum;
  }
}

void multiply(std::uint64_t algorithm, const Description& d, float alpha, const void* a, const Layout& la,
              const void* b, const Layout& lb, float beta, const void* c, void* result, const Layout& lc) {
  const std::int64_t m = lc.rows, n = lc.columns;
  const std::int64_t depth = d.transpose_a == CUBLAS_OP_T ? la.rows : la.columns;
  for (std::int64_t batch = 0; batch < lc.batch; ++batch) {
    const auto left = unpacked(a, la, d.transpose_a, batch, true);    // m x depth
    const auto right = unpacked(b, lb, d.transpose_b, batch, false);  // n x depth, transposed
    const auto is_zero = [](float value) { return value == 0; };
    for (const auto* operand : {&left, &right})
      if (std::all_of(operand->begin(), operand->end(), is_zero)) ++machine.zero_operands;
    for (std::int64_t j = 0; j < n; ++j)
      for (std::int64_t i = 0; i < m; ++i) {
        const float sum = dot(algorithm, depth, left.data() + i * depth, right.data() + j * depth, lc.type);
        const std::int64_t at = batch * lc.stride + j * lc.leading + i;
        float value = alpha * sum + (beta != 0 ? beta * read(c, lc.type, at) : 0.0f);
        if (d.epilogue == CUBLASLT_EPILOGUE_BIAS) value += read(d.bias, d.bias_type, i);
        write(result, lc.type, at, value);
      }
    if (d.epilogue == CUBLASLT_EPILOGUE_BGRADB)
      for (std::int64_t j = 0; j < n; ++j) {
        float sum = 0;
        for (std::int64_t k = 0; k < depth; ++k) sum += right[static_cast<std::size_t>(j * depth + k)];
        write(d.bias, d.bias_type, j, sum);
      }
  }
}

template <class To, class From>
To* as(From* from) {
  return reinterpret_cast<To*>(from);
}

}  // namespace
}  // namespace emulation

using emulation::as, emulation::Description, emulation::Layout, emulation::Preference;

extern "C" {

size_t cublasLtGetVersion() {
  return CUBLAS_VERSION;
}
cublasStatus_t cublasLtCreate(cublasLtHandle_t* handle) {
  *handle = as<cublasLtContext>(new int);
  return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtDestroy(cublasLtHandle_t handle) {
  delete as<int>(handle);
  return CUBLAS_STATUS_SUCCESS;
}
const char* cublasLtGetStatusString(cublasStatus_t) {
  return "an error of the emulated cuBLASLt";
}

cublasStatus_t cublasLtMatrixLayoutCreate(cublasLtMatrixLayout_t* layout, cudaDataType type, uint64_t rows,
                                          uint64_t columns, int64_t leading) {
  *layout = as<cublasLtMatrixLayoutOpaque_t>(
      new Layout{type, static_cast<std::int64_t>(rows), static_cast<std::int64_t>(columns), leading});
  return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtMatrixLayoutDestroy(cublasLtMatrixLayout_t layout) {
  delete as<Layout>(layout);
  return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtMatrixLayoutSetAttribute(cublasLtMatrixLayout_t layout,
                                                cublasLtMatrixLayoutAttribute_t attribute, const void* value,
                                                size_t size) {
  Layout& l = *as<Layout>(layout);
  if (attribute == CUBLASLT_MATRIX_LAYOUT_BATCH_COUNT && size == sizeof(l.batch))
    std::memcpy(&l.batch, value, size);
  else if (attribute == CUBLASLT_MATRIX_LAYOUT_STRIDED_BATCH_OFFSET && size == sizeof(l.stride))
    std::memcpy(&l.stride, value, size);
  else
    return CUBLAS_STATUS_INVALID_VALUE;
  return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatmulDescCreate(cublasLtMatmulDesc_t* description, cublasComputeType_t compute,
                                        cudaDataType_t scale) {
  if (compute != CUBLAS_COMPUTE_32F || scale != CUDA_R_32F) return CUBLAS_STATUS_NOT_SUPPORTED;
  *description = as<cublasLtMatmulDescOpaque_t>(new Description);
  return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtMatmulDescDestroy(cublasLtMatmulDesc_t description) {
  delete as<Description>(description);
  return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtMatmulDescSetAttribute(cublasLtMatmulDesc_t description,
                                              cublasLtMatmulDescAttributes_t attribute, const void* value,
                                              size_t size) {
  Description& d = *as<Description>(description);
  const auto set = [&](auto& to) {
    if (size != sizeof(to)) return CUBLAS_STATUS_INVALID_VALUE;
    std::memcpy(&to, value, size);
    return CUBLAS_STATUS_SUCCESS;
  };
  switch (attribute) {
    case CUBLASLT_MATMUL_DESC_TRANSA:
      return set(d.transpose_a);
    case CUBLASLT_MATMUL_DESC_TRANSB:
      return set(d.transpose_b);
    case CUBLASLT_MATMUL_DESC_EPILOGUE:
      return set(d.epilogue);
    case CUBLASLT_MATMUL_DESC_BIAS_POINTER:
      return set(d.bias);
    case CUBLASLT_MATMUL_DESC_BIAS_DATA_TYPE:
      return set(d.bias_type);
    default:
      return CUBLAS_STATUS_INVALID_VALUE;
  }
}

cublasStatus_t cublasLtMatmulPreferenceCreate(cublasLtMatmulPreference_t* preference) {
  *preference = as<cublasLtMatmulPreferenceOpaque_t>(new Preference);
  return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtMatmulPreferenceDestroy(cublasLtMatmulPreference_t preference) {
  delete as<Preference>(preference);
  return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtMatmulPreferenceSetAttribute(cublasLtMatmulPreference_t preference,
                                                    cublasLtMatmulPreferenceAttributes_t attribute, const void* value,
                                                    size_t size) {
  if (attribute == CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK) {
    if (size != sizeof(Preference::schemes)) return CUBLAS_STATUS_INVALID_VALUE;
    std::memcpy(&as<Preference>(preference)->schemes, value, size);
  }
  return CUBLAS_STATUS_SUCCESS;
}

// An algorithm's words: its number and what it was configured for.
cublasStatus_t cublasLtMatmulAlgoGetHeuristic(cublasLtHandle_t, cublasLtMatmulDesc_t description,
                                              cublasLtMatrixLayout_t, cublasLtMatrixLayout_t, cublasLtMatrixLayout_t,
                                              cublasLtMatrixLayout_t, cublasLtMatmulPreference_t preference,
                                              int requested, cublasLtMatmulHeuristicResult_t results[], int* found) {
  *found = 0;
  if (as<Description>(description)->epilogue == CUBLASLT_EPILOGUE_BGRADB && !emulation::machine.bias_gradients)
    return CUBLAS_STATUS_NOT_SUPPORTED;
  const std::uint32_t schemes = as<Preference>(preference)->schemes;
  const int most = (std::min)(requested, emulation::machine.algorithms);
  for (std::uint64_t offset = 0; offset < emulation::algorithms && *found < most; ++offset) {
    const std::uint64_t algorithm = (emulation::in_place + offset) % emulation::algorithms;
    if ((emulation::scheme_of(algorithm) & ~schemes) != 0) continue;
    cublasLtMatmulHeuristicResult_t& result = results[(*found)++];
    result = {};
    result.algo.data[0] = algorithm;
    if ((emulation::machine.unavailable >> algorithm & 1) != 0) result.state = CUBLAS_STATUS_NOT_SUPPORTED;
  }
  return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatmul(cublasLtHandle_t, cublasLtMatmulDesc_t description, const void* alpha, const void* a,
                              cublasLtMatrixLayout_t layout_a, const void* b, cublasLtMatrixLayout_t layout_b,
                              const void* beta, const void* c, cublasLtMatrixLayout_t, void* d,
                              cublasLtMatrixLayout_t layout_d, const cublasLtMatmulAlgo_t* algorithm, void* workspace,
                              size_t bytes, cudaStream_t stream) {
  const Description what = *as<Description>(description);
  const Layout la = *as<Layout>(layout_a), lb = *as<Layout>(layout_b), ld = *as<Layout>(layout_d);
  const float scale = *static_cast<const float*>(alpha), keep = *static_cast<const float*>(beta);
  const std::uint64_t number = algorithm->data[0];
  {
    const std::lock_guard lock(emulation::lock());
    if (number >= emulation::algorithms || (emulation::machine.unavailable >> number & 1) != 0)
      return CUBLAS_STATUS_INVALID_VALUE;
    if ((emulation::machine.failing >> number & 1) != 0) return CUBLAS_STATUS_EXECUTION_FAILED;
    const bool is_new =
        emulation::machine.loaded.emplace(number, what.transpose_a, what.transpose_b, what.epilogue, ld.type).second;
    if (is_new && emulation::capturing(stream)) ++emulation::machine.loads_in_capture;
    if (number == emulation::in_place) ++emulation::machine.low_sums;
  }
  emulation::submit(stream, [=] {
    std::memset(workspace, 0xFF, bytes < 4096 ? bytes : 4096);
    emulation::multiply(number, what, scale, a, la, b, lb, keep, c, d, ld);
  });
  return CUBLAS_STATUS_SUCCESS;
}

}  // extern "C"
