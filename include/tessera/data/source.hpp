// Brings a loader's batches to a backend whose memory is the host's.
#pragma once

#include <array>
#include <cstddef>
#include <type_traits>
#include <vector>

#include "tessera/data/batch.hpp"
#include "tessera/data/loader.hpp"

namespace tessera {
inline namespace TESSERA_ABI {
namespace data {

// A source: next() gives the batch of the next step, valid until the following call; prepare() is called while a step
// runs. cuda::DeviceSource is the other one.
template <class Scalar, class Reads, class Images>
class HostSource {
 public:
  // The data set must outlive the source. Throws Error that names a wrong option.
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
        converted_[group].assign(made.crops[group].begin(), made.crops[group].end());
        std::get<group>(batch.crops).data = converted_[group].data();
      });
      return batch;
    }
  }
  static void prepare() noexcept {}

 private:
  Loader<Images, Reads> loader_;
  std::array<std::vector<Scalar>, Reads::groups> converted_;  // where the scalar is not float
};

}  // namespace data
}  // namespace TESSERA_ABI
}  // namespace tessera
