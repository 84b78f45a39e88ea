// Features of images in IDX files by a checkpoint of `pretrain`, as .npy.
#include <CLI/CLI.hpp>
#include <charconv>
#include <vector>

#include "options.hpp"
#include "tessera/data/loader.hpp"
#include "tessera/data/normalization.hpp"
#include "tessera/io/npy.hpp"
#include "tessera/io/safetensors.hpp"

namespace {

using namespace examples;

struct Checkpoint {
  explicit Checkpoint(const std::string& path_) : path(path_), file(path_) {}

  [[nodiscard]] const std::string& entry(const std::string& key) const {
    const auto found = file.metadata().find(key);
    if (found == file.metadata().end()) ts::fail("{}: is not a checkpoint of pretrain: it has no '{}'", path, key);
    return found->second;
  }

  // As many images at once as in the run, so that sums are taken in the same order and features agree bitwise.
  [[nodiscard]] int images_at_once() const {
    const std::string& text = entry("batch_size");
    int size = 0;
    const auto [end, problem] = std::from_chars(text.data(), text.data() + text.size(), size);
    if (problem != std::errc{} || end != text.data() + text.size() || size < 1 || size > 1 << 20)
      ts::fail("{}: has the batch_size '{}'", path, text);
    return 2 * size;
  }

  std::string path;
  ts::io::Safetensors file;
};

// The encoder's tensors under the names that MoCo v3 gives them in its checkpoints.
template <class Encoder>
struct BaseEncoder {
  template <class Leaf>
  using Parameters = typename Encoder::template Parameters<Leaf>;
  template <class Visit>
  static constexpr auto declare(Visit& visit, const ts::Name& name) {
    return Encoder::declare(visit, name / "base_encoder");
  }
};

template <class Encoder>
void extract(const Checkpoint& checkpoint, const ts::data::IdxDataset& images, const std::string& out) {
  using Model = BaseEncoder<Encoder>;
  using Table = ts::Layout<Model>;
  ts::cpu::Backend<float> backend;
  ts::comm::Serial communicator;
  ts::cpu::Buffer<float> parameters(Table::parameters), statistics(Table::statistics);
  for (const ts::Entry& entry : Table::entries) {
    float* const to = (entry.role == ts::Role::statistic ? statistics : parameters).data() + entry.offset;
    checkpoint.file.read_into<float>(
        std::string(entry.name.view()),
        std::vector<std::int64_t>(entry.shape.extents.begin(), entry.shape.extents.begin() + entry.shape.rank),
        std::span<float>(to, static_cast<std::size_t>(entry.size())));
  }
  const auto normalization = ts::data::normalization_from(checkpoint.entry("normalization"), checkpoint.path);
  const int batch = checkpoint.images_at_once();
  const auto p = ts::bind<Model>(parameters.data(), statistics.data());
  using Image = typename Encoder::Image;
  const auto encode = [&](const float* pixels, float* features, ts::index rows) {
    ts::Context<ts::cpu::Backend<float>, ts::comm::Serial> context{backend, communicator, ts::Mode::evaluate};
    Encoder::encode(context, p, ts::Rows<const float, Encoder::in>{pixels, rows},
                    ts::Rows<float, Encoder::out>{features, rows});
  };
  encode(nullptr, nullptr, batch);
  backend.arena().commit();
  const auto count = static_cast<std::size_t>(images.size());
  std::vector<float> features(count * Encoder::out), pixels(static_cast<std::size_t>(batch) * Encoder::in);
  ts::data::AugmentScratch scratch;
  for (int first = 0; first < images.size(); first += batch) {
    const int rows = images.size() - first < batch ? images.size() - first : batch;
    ts::data::evaluation_batch(images, first, rows, Image::size, Image::channels, normalization, pixels.data(),
                               scratch);
    encode(pixels.data(), features.data() + static_cast<ts::index>(first) * Encoder::out, rows);
  }
  ts::io::write_npy(out, features.data(), count, Encoder::out);
  fmt::print("{}: {} x {} features\n", out, count, Encoder::out);
}

int program(int argc, char** argv) {
  std::string data, split = "t10k", path, out = "features.npy";
  CLI::App app("Features of images in IDX files by a checkpoint of pretrain, as .npy.");
  set_up(app);
  app.add_option("--data", data, "folder with {train,t10k}-{images-idx3,labels-idx1}-ubyte[.gz]")->required();
  app.add_option("--split", split, "train or t10k");
  app.add_option("--checkpoint", path, "checkpoint.safetensors of a run")->required();
  app.add_option("--out", out, "file to write");
  if (!parse(app, argc, argv)) return 0;
  const Checkpoint checkpoint(path);
  const ts::data::IdxDataset images(data, split);
  const std::string& arch = checkpoint.entry("arch");
  const bool tiny = arch == "vit_tiny";
  if (!for_arch(arch, true, tiny ? 128 : 256, tiny ? 512 : 4096,
                [&]<class One>(One) { extract<typename One::Method::Encoder>(checkpoint, images, out); }))
    ts::fail("{}: has the arch '{}'; there are {}", path, arch, archs);
  return 0;
}

}  // namespace

int main(int argc, char** argv) {
  return examples::guarded("extract_features", [&] { return program(argc, argv); });
}
