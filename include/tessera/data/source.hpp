// The source of batches for a backend in memory of the host.
#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <type_traits>
#include <vector>

#include "tessera/data/batch.hpp"
#include "tessera/data/loader.hpp"

namespace tessera {
inline namespace TESSERA_ABI {
namespace data {

// A source: next() returns the batch of the next step, valid until the following call; prepare() is called while a step
// runs and may start on the next batch. cuda::DeviceSource is the source of the CUDA backend.
template <class Scalar, class Reads, class Images>
class HostSource {
 public:
  // The data set must outlive the source. Throws Error if an option is wrong.
  template <class Backend>
  HostSource(Backend&, const Images& images, const LoaderOptions& options) : loader_(images, Reads{}, options) {}

  [[nodiscard]] Batch<Scalar, Reads> next() {
    const MadeBatch<Reads>& made = loader_.next();
    const Batch<float, Reads> floats = made.batch();
    if constexpr (std::is_same_v<Scalar, float>) {
      return floats;
    } else {
      Batch<Scalar, Reads> batch = Batch<Scalar, Reads>::planned(floats.images());
      batch.labels = floats.labels;
      for_crops<Reads>([&](auto group, int crop, int) {
        if (crop > 0) return;
        const std::vector<float>& values = made.crops[group];
        converted_[group].resize(values.size());
        std::transform(values.begin(), values.end(), converted_[group].begin(),
                       [](float value) { return static_cast<Scalar>(value); });
        std::get<group>(batch.crops).data = converted_[group].data();
      });
      return batch;
    }
  }
  static void prepare() noexcept {}

 private:
  Loader<Images, Reads> loader_;
  std::array<std::vector<Scalar>, Reads::groups> converted_;  // the crops if Scalar is not float
};

}  // namespace data
}  // namespace TESSERA_ABI
}  // namespace tessera
