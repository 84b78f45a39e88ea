// cuBLASLt's functions on the emulated device: what the library asks of them, by plain loops.
#include <cublasLt.h>

#include <algorithm>
#include <array>
#include <bit>
#include <cstdlib>
#include <cstring>
#include <mutex>
#include <utility>
#include <vector>

#include "emulation.hpp"
#include "tessera/core/scalar.hpp"

namespace emulation {

namespace {

struct Preference {
  std::uint64_t workspace = 0;
  std::uint32_t schemes = CUBLASLT_REDUCTION_SCHEME_MASK;
  std::uint32_t alignment[4] = {256, 256, 256, 256};  // of A, B, C, D
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

// A matrix or vector in memory.
struct Range {
  const char* data;
  std::size_t bytes;

  Range(const void* start, std::size_t size) : data(static_cast<const char*>(start)), bytes(size) {}
  Range(const void* start, const Layout& l)
      : Range(start, static_cast<std::size_t>((l.batch - 1) * l.stride + (l.columns - 1) * l.leading + l.rows) *
                         size_of(l.type)) {}
  static std::size_t size_of(cudaDataType type) { return type == CUDA_R_32F ? 4 : 2; }

  [[nodiscard]] bool overlaps(const Range& other) const {
    return data < other.data + other.bytes && other.data < data + bytes;
  }
  [[nodiscard]] bool is_aligned(std::uint64_t to) const { return reinterpret_cast<std::uintptr_t>(data) % to == 0; }
  [[nodiscard]] bool is_there() const { return data != nullptr && on_device(data, bytes); }
};

// True if the tables of cublasLt.h, and of cublasLtMatmul in cuBLAS's documentation, allow these types with sums in
// float. Types and epilogues that the library does not use are left out.
bool supported(const Description& d, const Layout& a, const Layout& b, const Layout& c, const Layout& result) {
  if (a.type != b.type || c.type != result.type) return false;
  const bool low = a.type == CUDA_R_16BF;
  if (result.type == CUDA_R_16BF ? !low : result.type != CUDA_R_32F || (!low && a.type != CUDA_R_32F)) return false;
  if (d.epilogue == CUBLASLT_EPILOGUE_DEFAULT) return true;
  return (d.epilogue == CUBLASLT_EPILOGUE_BIAS || d.epilogue == CUBLASLT_EPILOGUE_BGRADB) && d.bias_type == result.type;
}

bool fits(const Description& d, const Layout& a, const Layout& b, const Layout& c, const Layout& result) {
  const auto extents = [](const Layout& l, cublasOperation_t op) {
    return op == CUBLAS_OP_T ? std::pair(l.columns, l.rows) : std::pair(l.rows, l.columns);
  };
  const auto [m, depth] = extents(a, d.transpose_a);
  const auto [other, n] = extents(b, d.transpose_b);
  for (const Layout* const l : {&a, &b, &c, &result})
    if (l->rows < 1 || l->columns < 1 || l->leading < l->rows || l->batch != result.batch) return false;
  return depth == other && result.rows == m && result.columns == n && c.rows == m && c.columns == n;
}

// Pointers without an alignment that was stated are taken as aligned to a vector.
constexpr std::uint64_t usual_alignment = 16;

std::uint64_t alignment_of(const void* data) {
  const auto low_bits = reinterpret_cast<std::uintptr_t>(data) | usual_alignment;
  return low_bits & ~(low_bits - 1);
}

// The words of an algorithm: its number, the alignments it relies on, the problem it was configured for.
using Words = std::array<std::uint64_t, 8>;
Words words_of(std::uint64_t algorithm, const Description& d, const Preference& p, const Layout& a, const Layout& b,
               const Layout& result) {
  std::uint64_t alignments = d.bias == nullptr ? usual_alignment : alignment_of(d.bias);
  for (const std::uint32_t one : p.alignment) alignments = alignments << 12 | one;
  const auto operations = static_cast<std::uint64_t>(d.transpose_a) << 40 |
                          static_cast<std::uint64_t>(d.transpose_b) << 32 | static_cast<std::uint64_t>(d.epilogue);
  const auto types = static_cast<std::uint64_t>(a.type) << 32 | static_cast<std::uint64_t>(result.type);
  return {algorithm,
          alignments,
          operations,
          types,
          static_cast<std::uint64_t>(result.rows),
          static_cast<std::uint64_t>(result.columns),
          static_cast<std::uint64_t>(a.rows * a.columns),
          static_cast<std::uint64_t>(b.rows * b.columns)};
}

// True if buffers are there with all of their elements, aligned as the algorithm relies on, and apart from each other,
// but for an addend that is the result.
bool may_run(const Description& d, const Preference& relied, std::uint64_t bias_alignment, const Range& a,
             const Range& b, const Range& c, const Range& result, const Range& workspace, const Layout& layout) {
  const Range* const buffers[] = {&a, &b, &c, &result};
  for (int i = 0; i < 4; ++i)
    if (!buffers[i]->is_there() || !buffers[i]->is_aligned(relied.alignment[i])) return false;
  if (!workspace.is_there() || !workspace.is_aligned(usual_alignment)) return false;
  if (result.overlaps(a) || result.overlaps(b) || (c.data != result.data && result.overlaps(c))) return false;
  for (const Range* const buffer : buffers)
    if (workspace.overlaps(*buffer)) return false;
  if (d.epilogue == CUBLASLT_EPILOGUE_DEFAULT) return true;
  const auto count = d.epilogue == CUBLASLT_EPILOGUE_BIAS ? layout.rows : layout.columns;
  const Range bias(d.bias, static_cast<std::size_t>(count) * Range::size_of(d.bias_type));
  return bias.is_there() && bias.is_aligned(bias_alignment) && !bias.overlaps(workspace) && !bias.overlaps(result);
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
  Preference& p = *as<Preference>(preference);
  const auto set = [&](auto& to) {
    if (size != sizeof(to)) return CUBLAS_STATUS_INVALID_VALUE;
    std::memcpy(&to, value, size);
    return CUBLAS_STATUS_SUCCESS;
  };
  switch (attribute) {
    case CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES:
      return set(p.workspace);
    case CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK:
      return set(p.schemes);
    case CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES:
    case CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES:
    case CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES:
    case CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES:
      return set(p.alignment[attribute - CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES]);
    default:
      return CUBLAS_STATUS_INVALID_VALUE;
  }
}

cublasStatus_t cublasLtMatmulAlgoGetHeuristic(cublasLtHandle_t, cublasLtMatmulDesc_t description,
                                              cublasLtMatrixLayout_t layout_a, cublasLtMatrixLayout_t layout_b,
                                              cublasLtMatrixLayout_t layout_c, cublasLtMatrixLayout_t layout_d,
                                              cublasLtMatmulPreference_t preference, int requested,
                                              cublasLtMatmulHeuristicResult_t results[], int* found) {
  *found = 0;
  const Description& what = *as<Description>(description);
  const Preference& wanted = *as<Preference>(preference);
  const Layout &la = *as<Layout>(layout_a), &lb = *as<Layout>(layout_b), &lc = *as<Layout>(layout_c),
               &ld = *as<Layout>(layout_d);
  if (requested < 1 || !emulation::fits(what, la, lb, lc, ld)) return CUBLAS_STATUS_INVALID_VALUE;
  if (!emulation::supported(what, la, lb, lc, ld)) return CUBLAS_STATUS_NOT_SUPPORTED;
  if (what.epilogue == CUBLASLT_EPILOGUE_BGRADB && !emulation::machine.bias_gradients)
    return CUBLAS_STATUS_NOT_SUPPORTED;
  const int most = (std::min)(requested, emulation::machine.algorithms);
  for (std::uint64_t offset = 0; offset < emulation::algorithms && *found < most; ++offset) {
    const std::uint64_t algorithm = (emulation::in_place + offset) % emulation::algorithms;
    if ((emulation::scheme_of(algorithm) & ~wanted.schemes) != 0) continue;
    if (algorithm == emulation::halves && wanted.workspace == 0) continue;
    cublasLtMatmulHeuristicResult_t& result = results[(*found)++];
    result = {};
    result.algo = std::bit_cast<cublasLtMatmulAlgo_t>(emulation::words_of(algorithm, what, wanted, la, lb, ld));
    result.workspaceSize = algorithm == emulation::halves ? wanted.workspace : 0;
    if ((emulation::machine.unavailable >> algorithm & 1) != 0) result.state = CUBLAS_STATUS_NOT_SUPPORTED;
  }
  return *found > 0 ? CUBLAS_STATUS_SUCCESS : CUBLAS_STATUS_NOT_SUPPORTED;
}

cublasStatus_t cublasLtMatmul(cublasLtHandle_t, cublasLtMatmulDesc_t description, const void* alpha, const void* a,
                              cublasLtMatrixLayout_t layout_a, const void* b, cublasLtMatrixLayout_t layout_b,
                              const void* beta, const void* c, cublasLtMatrixLayout_t layout_c, void* d,
                              cublasLtMatrixLayout_t layout_d, const cublasLtMatmulAlgo_t* algorithm, void* workspace,
                              size_t bytes, cudaStream_t stream) {
  const Description what = *as<Description>(description);
  const Layout la = *as<Layout>(layout_a), lb = *as<Layout>(layout_b), ld = *as<Layout>(layout_d);
  if (!emulation::fits(what, la, lb, *as<Layout>(layout_c), ld)) return CUBLAS_STATUS_INVALID_VALUE;
  const float scale = *static_cast<const float*>(alpha), keep = *static_cast<const float*>(beta);
  const std::uint64_t number = algorithm->data[0];
  Preference relied{.workspace = 0, .schemes = 0, .alignment = {}};
  for (int i = 0; i < 4; ++i) relied.alignment[i] = algorithm->data[1] >> (12 * (3 - i)) & 0xFFF;
  const std::uint64_t bias_alignment = algorithm->data[1] >> 48;
  Description configured = what;
  configured.bias = reinterpret_cast<void*>(bias_alignment);
  if (emulation::words_of(number, configured, relied, la, lb, ld) != std::bit_cast<emulation::Words>(*algorithm) ||
      !emulation::may_run(what, relied, bias_alignment, {a, la}, {b, lb}, {c, ld}, {d, ld}, {workspace, bytes}, ld))
    return CUBLAS_STATUS_INVALID_VALUE;
  bool whole = false;
  {
    const std::lock_guard lock(emulation::lock());
    if (number >= emulation::algorithms || (emulation::machine.unavailable >> number & 1) != 0)
      return CUBLAS_STATUS_INVALID_VALUE;
    if ((emulation::machine.failing >> number & 1) != 0) return CUBLAS_STATUS_EXECUTION_FAILED;
    const bool is_new =
        emulation::machine.loaded.emplace(number, what.transpose_a, what.transpose_b, what.epilogue, ld.type).second;
    if (is_new && emulation::capturing(stream)) ++emulation::machine.loads_in_capture;
    static unsigned calls = 0;
    whole = is_new || calls++ % 16 == 0;  // which takes long
    if (number == emulation::in_place) ++emulation::machine.low_sums;
  }
  emulation::submit(stream, [=] {
    std::memset(workspace, 0xFF, whole || bytes < 4096 ? bytes : 4096);
    emulation::multiply(number, what, scale, a, la, b, lb, keep, c, d, ld);
  });
  return CUBLAS_STATUS_SUCCESS;
}

}  // extern "C"
