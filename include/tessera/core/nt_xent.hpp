// NT-Xent, the normalized temperature-scaled cross entropy of SimCLR (its paper, section 2.1; docs/method.md, 8.2):
// the contract of the operations nt_xent_forward and nt_xent_backward of both backends.
//
// z (2n x columns) has the unit rows of all ranks: view 1 of the n images, then view 2 in the same order. Row i is
// compared with all rows but itself; its positive p(i) is the other view of its image.
//   loss = 1 / (2n) * sum over all rows i of (log_sum_i - z_i . z_p(i) / tau),
//   log_sum_i = log sum_(j != i) exp(z_i . z_j / tau).
// The anchors of a call are the rows [first, first + count), any range of z.
//
// nt_xent_forward(backend, z, temperature, first, log_sums, loss): assigns log_sums (count x 1) of the anchors, and
// adds the anchors' part of the loss to *loss.
//
// nt_xent_backward(backend, z, temperature, first, log_sums, d_z): assigns d_z (count x columns), the gradient of the
// whole loss with respect to the anchors' rows of z,
//   d_z_i = 1 / (2n tau) * (sum_(j != i) (p_ij + p_ji) z_j - 2 z_p(i)),   p_ij = exp(z_i . z_j / tau - log_sum_i).
// The terms with p_ji are the gradient of row i as a candidate of other anchors, those of other ranks included. They
// need log_sums of all rows of z (2n x 1): ranks gather log-sums and exchange no gradients.
//
// tau = *temperature; temperature and loss are in memory of the backend.
#pragma once

#include "tessera/core/abi.hpp"
#include "tessera/core/index.hpp"

namespace tessera {
inline namespace TESSERA_ABI {

// p(row): the number of the row that is the other view of the same image, among `rows` = 2n rows.
[[nodiscard]] TESSERA_HOST_DEVICE constexpr index other_view(index row, index rows) {
  const index images = rows / 2;
  return row < images ? row + images : row - images;
}

}  // namespace TESSERA_ABI
}  // namespace tessera
