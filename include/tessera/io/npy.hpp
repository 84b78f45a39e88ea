// NumPy's .npy files, through xtensor.
#pragma once

#include <span>
#include <sstream>
#include <string>
#include <xtensor/xadapt.hpp>
#include <xtensor/xarray.hpp>
#include <xtensor/xnpy.hpp>

#include "tessera/core/abi.hpp"
#include "tessera/core/errors.hpp"
#include "tessera/io/file.hpp"

namespace tessera::inline TESSERA_ABI::io {

// Writes an xtensor expression, atomically.
template <class Expression>
void write_npy(const std::filesystem::path& path, const xt::xexpression<Expression>& values) {
  replace_file(path, std::string_view(xt::dump_npy(values)));
}

// Writes a row-major (rows x columns) matrix.
template <class Scalar>
void write_npy(const std::filesystem::path& path, const Scalar* values, std::size_t rows, std::size_t columns) {
  const std::array<std::size_t, 2> shape{rows, columns};
  write_npy(path, xt::adapt(values, rows * columns, xt::no_ownership(), shape));
}

// Reads an array of Scalar in row-major order. Throws Error for another dtype or order, or a damaged file.
template <class Scalar>
[[nodiscard]] xt::xarray<Scalar> read_npy(const std::filesystem::path& path) {
  std::istringstream stream(read_file(path, std::uintmax_t{1} << 36));
  try {
    return xt::load_npy<Scalar>(stream);
  } catch (const std::exception& problem) {
    fail("{}: is not an .npy file of the expected type: {}", path.string(), problem.what());
  }
}

}  // namespace tessera::inline TESSERA_ABI::io
