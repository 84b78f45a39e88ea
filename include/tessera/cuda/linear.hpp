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

inline constexpr int sum_columns = 64, sum_rows = 512;

// partial[piece][c] = sum over the sum_rows rows of a piece of x[r][c]. A block has sum_columns threads across, one for
// each column, and blockDim.x / sum_columns down, among which its rows are divided.
template <class Scalar>
__global__ void partial_sums_kernel(index rows, index columns, const Scalar* x, Accumulator<Scalar>* partial) {
  auto* const room = reinterpret_cast<Accumulator<Scalar>*>(shared_memory());
  const int across = static_cast<int>(threadIdx.x) % sum_columns, down = static_cast<int>(threadIdx.x) / sum_columns;
  const int height = static_cast<int>(blockDim.x) / sum_columns;
  const index column = static_cast<index>(blockIdx.x) * sum_columns + across;
  const index first = static_cast<index>(blockIdx.y) * sum_rows;
  const index last = first + sum_rows < rows ? first + sum_rows : rows;
  Accumulator<Scalar> sum = 0;
  if (column < columns)
    for (index row = first + down; row < last; row += height)
      sum += static_cast<Accumulator<Scalar>>(x[row * columns + column]);
  room[threadIdx.x] = sum;
  __syncthreads();
  if (down > 0 || column >= columns) return;
  for (int other = 1; other < height; ++other) sum += room[other * sum_columns + across];
  partial[static_cast<index>(blockIdx.y) * columns + column] = sum;
}

// Assigns sums[c] = sum over rows of x[r][c], piece by piece if there are many rows.
template <class Scalar, class Element>
void column_sums(Backend<Scalar>& backend, index rows, index columns, const Element* x, Accumulator<Scalar>* sums) {
  constexpr int threads = 4 * sum_columns;
  const index pieces = divide_up(rows, sum_rows);
  const typename Backend<Scalar>::Arena::Frame frame(backend.arena());
  Accumulator<Scalar>* const partial =
      pieces > 1 ? backend.arena().template take<Accumulator<Scalar>>(pieces * columns) : sums;
  launch(backend, dim3(static_cast<unsigned>(divide_up(columns, sum_columns)), static_cast<unsigned>(pieces)), threads,
         threads * static_cast<index>(sizeof(Accumulator<Scalar>)), partial_sums_kernel<Element>, rows, columns, x,
         partial);
  if (pieces > 1) column_sums<Scalar, Accumulator<Scalar>>(backend, pieces, columns, partial, sums);
}

// gradient *= Activation'(x), activated = Activation(x), in one pass.
template <int width, class Activation, class Scalar>
__global__ void activation_gradient_kernel(index count, const Scalar* x, Scalar* gradient, Scalar* activated) {
  const index at = (static_cast<index>(blockIdx.x) * blockDim.x + threadIdx.x) * width;
  if (at >= count) return;
  Accumulator<Scalar> before[width], d[width], after[width];
  load<width>(x + at, before);
  load<width>(gradient + at, d);
  TESSERA_UNROLL
  for (int i = 0; i < width; ++i) {
    const auto [value, slope] = Activation::value_and_slope(before[i]);
    after[i] = value;
    d[i] *= slope;
  }
  store<width>(gradient + at, d);
  store<width>(activated + at, after);
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
                                Rows<const Scalar, in> before, Rows<Scalar, in> d_before, Rows<Scalar, in> activated) {
  linear_input_gradient(backend, dy, weight, d_before);
  constexpr int width = vector_width<Scalar>(in);
  launch(backend, blocks_for(before.size(), detail::element_threads, width), detail::element_threads, 0,
         detail::activation_gradient_kernel<width, Activation, Scalar>, before.size(), before.data, d_before.data,
         activated.data);
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
    detail::column_sums(backend, dy.rows, index{out}, dy.data, d_bias);
    product.left_sums = nullptr;
  }
  multiply(backend, product);
}

}  // namespace cuda
}  // namespace TESSERA_ABI
}  // namespace tessera
