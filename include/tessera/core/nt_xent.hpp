// NT-Xent, the normalized temperature-scaled cross entropy of SimCLR (its paper, section 2.1; docs/method.md,
// "NT-Xent"): the contract of the operations that both backends have.
//
// z (2n x columns) has the unit features of all ranks: view 1 of the n images, then view 2 in the same order. Row i is
// compared with all rows but itself, its positive p(i) is its image's other view, and
//   loss = 1 / 2n * sum over all rows i of (log_sum_i - z_i . z_p(i) / tau),
//   log_sum_i = log sum_(j != i) exp(z_i . z_j / tau).
// A rank has some rows as anchors, [first, first + count), which need not be a view's all.
//
// nt_xent_forward(backend, z, temperature, first, log_sums, loss): log_sums (count) receives those of the anchors, and
// *loss grows by the anchors' part of the loss.
//
// nt_xent_backward(backend, z, temperature, first, log_sums, d_z): d_z (count x columns) is assigned the gradient of
// the whole loss with respect to the anchors' rows of z,
//   d_z_i = 1 / (2n tau) * (sum_(j != i) (p_ij + p_ji) z_j - 2 z_p(i)),   p_ij = exp(z_i . z_j / tau - log_sum_i).
// The sum of p_ji is what row i gets as a candidate of other ranks' anchors. It follows from log_sums of all rows of z
// (2n), so that ranks exchange log-sums and no gradients.
//
// tau = *temperature; temperature and loss are in memory of the backend.
#pragma once

#include "tessera/core/abi.hpp"
#include "tessera/core/index.hpp"

namespace tessera {
inline namespace TESSERA_ABI {

// p(i): the place of the other view of row `row` of `rows`.
[[nodiscard]] TESSERA_HOST_DEVICE constexpr index other_view(index row, index rows) {
  const index images = rows / 2;
  return row < images ? row + images : row - images;
}

}  // namespace TESSERA_ABI
}  // namespace tessera
