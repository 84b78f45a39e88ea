// Linear maps y = x W^T + b. cuBLASLt adds bias and residual, and sums the bias gradient, where the product is made.
#pragma once

#include "tessera/cuda/activation.hpp"
#include "tessera/cuda/backend.hpp"
#include "tessera/cuda/device.hpp"
#include "tessera/cuda/products.hpp"

namespace tessera {
inline namespace TESSERA_ABI {
namespace cuda {

// Puts the product on the backend's stream; its workspace is the arena's.
template <class Scalar, class Operand, class Result>
void multiply(Backend<Scalar>& backend, const Product<Operand, Result>& product) {
  const typename Backend<Scalar>::Arena::Frame frame(backend.arena());
  std::byte* const workspace = backend.arena().template take<std::byte>(product_workspace);
  if (backend.arena().planning()) return;
  backend.products().multiply(backend.stream(), workspace, product);
}

// The same; false, and nothing is done, if cuBLASLt has no algorithm for it. Not while memory is planned.
template <class Scalar, class Operand, class Result>
[[nodiscard]] bool try_multiply(Backend<Scalar>& backend, const Product<Operand, Result>& product) {
  const typename Backend<Scalar>::Arena::Frame frame(backend.arena());
  std::byte* const workspace = backend.arena().template take<std::byte>(product_workspace);
  return backend.products().try_multiply(backend.stream(), workspace, product);
}

namespace detail {

// A block sums a piece of the rows of 32 vectors of columns; its warps take a row each at a time.
inline constexpr int column_threads = 256, piece_rows = 128;

// partial[piece][c] = the sum over a piece's rows of values(v, to), which assigns vector v of a matrix (rows x
// columns).
template <int width, int columns, class Values>
__global__ void __launch_bounds__(column_threads) partial_sums_kernel(index rows, Values values, float* partial) {
  constexpr int vectors = columns / width, warps = column_threads / warp_size;
  const int vector = static_cast<int>(blockIdx.y) * warp_size + lane_of_warp();
  const index first = static_cast<index>(blockIdx.x) * piece_rows;
  const index last = first + piece_rows < rows ? first + piece_rows : rows;
  float sums[width] = {};
  if (vector < vectors)
    for (index row = first + warp_of_block(); row < last; row += warps) {
      float value[width];
      values(row * vectors + vector, value);
      TESSERA_UNROLL
      for (int i = 0; i < width; ++i) sums[i] += value[i];
    }
  sum_over_warps(sums, reinterpret_cast<float*>(shared_memory()));
  if (warp_of_block() > 0 || vector >= vectors) return;
  auto* const to = reinterpret_cast<Vector<float, width>*>(partial) + static_cast<index>(blockIdx.x) * vectors;
  store<width>(reinterpret_cast<float*>(to + vector), sums);
}

// The values of a matrix.
template <int width, class Element>
struct Loaded {
  const Element* x;
  __device__ void operator()(index vector, float (&to)[width]) const { load<width>(x + vector * width, to); }
};

// gradient *= Activation'(x), which is given, and activated = Activation(x).
template <int width, class Activation, class Scalar>
struct ActivationGradient {
  const Scalar* x;
  Scalar *gradient, *activated;
  __device__ void operator()(index vector, float (&d)[width]) const {
    const auto at = [vector](Scalar* to) {
      return reinterpret_cast<Scalar*>(reinterpret_cast<Vector<Scalar, width>*>(to) + vector);
    };
    float before[width], after[width];
    load<width>(x + vector * width, before);
    load<width>(at(gradient), d);
    TESSERA_UNROLL
    for (int i = 0; i < width; ++i) {
      const auto [value, slope] = Activation::value_and_slope(before[i]);
      after[i] = value;
      d[i] *= slope;
    }
    store<width>(at(gradient), d);
    store<width>(at(activated), after);
  }
};

// Assigns sums[c] = the sum over rows of what values(v, to) gives (partial_sums_kernel), of pieces and then of their
// sums, in an order that depends on the number of rows alone.
template <int columns, int width, class Scalar, class Values>
void column_sums(Backend<Scalar>& backend, index rows, Values values, float* sums) {
  const index pieces = divide_up(rows, piece_rows);
  const typename Backend<Scalar>::Arena::Frame frame(backend.arena());
  float* const partial = pieces > 1 ? backend.arena().template take<float>(pieces * columns) : sums;
  const dim3 grid(static_cast<unsigned>(pieces), static_cast<unsigned>(divide_up(columns / width, warp_size)));
  launch(backend, grid, column_threads, column_threads * width * static_cast<index>(sizeof(float)),
         partial_sums_kernel<width, columns, Values>, rows, values, partial);
  constexpr int of_sums = vector_width<float>(columns);
  if (pieces > 1) column_sums<columns, of_sums>(backend, pieces, Loaded<of_sums, float>{partial}, sums);
}

}  // namespace detail

template <class Scalar, int in, int out>
void linear_forward(Backend<Scalar>& backend, Rows<const Scalar, in> x, Parameter<Scalar> weight,
                    Parameter<Scalar> bias, Rows<const Scalar, out> residual, Rows<Scalar, out> y) {
  multiply(backend, Product<Scalar, Scalar>{.rows = x.rows,
                                            .columns = out,
                                            .depth = in,
                                            .left = x.data,
                                            .left_transposed = false,
                                            .right = product_operand(weight),
                                            .right_transposed = true,
                                            .result = y.data,
                                            .addend = residual.data,
                                            .bias = product_operand(bias)});
}

template <class Activation, class Scalar, int in, int out>
void linear_activation_forward(Backend<Scalar>& backend, Rows<const Scalar, in> x, Parameter<Scalar> weight,
                               Parameter<Scalar> bias, Rows<Scalar, out> before, Rows<Scalar, out> y) {
  linear_forward(backend, x, weight, bias, Rows<const Scalar, out>{}, before);
  activation_forward<Activation>(backend, Rows<const Scalar, out>(before), y);
}

template <class Scalar, int in, int out>
void linear_input_gradient(Backend<Scalar>& backend, Rows<const Scalar, out> dy, Parameter<Scalar> weight,
                           Rows<Scalar, in> dx) {
  multiply(backend, Product<Scalar, Scalar>{.rows = dy.rows,
                                            .columns = in,
                                            .depth = out,
                                            .left = dy.data,
                                            .left_transposed = false,
                                            .right = product_operand(weight),
                                            .right_transposed = false,
                                            .result = dx.data});
}

template <class Activation, class Scalar, int in, int out>
void linear_activation_gradient(Backend<Scalar>& backend, Rows<const Scalar, out> dy, Parameter<Scalar> weight,
                                Rows<const Scalar, in> before, Rows<Scalar, in> d_before, Rows<Scalar, in> activated,
                                Accumulator<Scalar>* d_bias) {
  linear_input_gradient(backend, dy, weight, d_before);
  constexpr int width = vector_width<Scalar>(in);
  detail::column_sums<in, width>(
      backend, before.rows,
      detail::ActivationGradient<width, Activation, Scalar>{before.data, d_before.data, activated.data}, d_bias);
}

template <class Scalar, int in, int out>
void linear_weight_gradient(Backend<Scalar>& backend, Rows<const Scalar, in> x, Rows<const Scalar, out> dy,
                            Accumulator<Scalar>* d_weight, Accumulator<Scalar>* d_bias) {
  Product<Scalar, Accumulator<Scalar>> product{.rows = out,
                                               .columns = in,
                                               .depth = x.rows,
                                               .left = dy.data,
                                               .left_transposed = true,
                                               .right = x.data,
                                               .right_transposed = false,
                                               .result = d_weight,
                                               .left_sums = d_bias};
  // While memory is planned every pointer is null, and room is made for either way.
  if (backend.arena().planning() || d_bias != nullptr) {
    if (!backend.arena().planning() && try_multiply(backend, product)) return;
    constexpr int width = vector_width<Scalar>(out);
    detail::column_sums<out, width>(backend, dy.rows, detail::Loaded<width, Scalar>{dy.data}, d_bias);
    product.left_sums = nullptr;
  }
  multiply(backend, product);
}

}  // namespace cuda
}  // namespace TESSERA_ABI
}  // namespace tessera
