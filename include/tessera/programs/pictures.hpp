// The pictures of a program: flags, and data sets of every kind. Needs CLI11, zlib, xxHash, libjpeg-turbo and libpng
// (tessera::programs).
#pragma once

#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <array>
#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "tessera/core/free_memory.hpp"
#include "tessera/data/array.hpp"
#include "tessera/data/cached.hpp"
#include "tessera/data/cifar.hpp"
#include "tessera/data/idx.hpp"
#include "tessera/data/image_folder.hpp"
#include "tessera/data/image_list.hpp"
#include "tessera/data/spread.hpp"
#include "tessera/data/tolerant.hpp"
#include "tessera/io/hash.hpp"
#include "tessera/programs/options.hpp"
#include "tessera/train/callbacks/progress.hpp"

namespace tessera {
inline namespace TESSERA_ABI {
namespace programs {

inline constexpr std::string_view data_help =
    "folder with pictures, whose folders are the classes, or with train/ and val/ (or test/) of such; text file whose "
    "lines are path or path<TAB>label; folder with {train,t10k}-{images-idx3,labels-idx1}-ubyte[.gz], with CIFAR's "
    "binary files, or with {train,test}_{images,labels}.npy";

inline void add_data_flags(CLI::App& app, DataOptions& data) {
  app.add_option("--data", data.path, std::string(data_help))->required();
  app.add_option(
      "--test", data.test,
      "folder or text file with the pictures of the monitors; none: val/ or test/ of --data, else a tenth of "
      "its pictures, chosen by their names");
  app.add_flag("--no-labels{false}", data.labels, "folders are no classes, and labels of a text file are not read");
  app.add_flag("--ignore-exif{false}", data.upright, "pictures as they are stored, not turned as Exif says");
  app.add_option("--max-damaged", data.max_damaged,
                 "largest share of pictures that cannot be decoded, and are replaced, 0 to 1");
  app.add_option("--cache", data.cache, "GiB of memory for decoded pictures, which are then decoded once; 0: none");
}

namespace detail {

[[nodiscard]] inline data::Orientation orientation_of(const DataOptions& options) {
  return options.upright ? data::Orientation::upright : data::Orientation::as_stored;
}

// The pictures of a folder or a list. classes: those of the training pictures; none: those there are.
[[nodiscard]] inline data::ImageFiles find_pictures(const std::filesystem::path& path, const DataOptions& options,
                                                    bool labels, std::vector<std::string> classes = {}) {
  const data::Orientation orientation = orientation_of(options);
  if (std::filesystem::is_regular_file(path))
    return data::ImageList(path, {.labels = labels, .orientation = orientation, .classes = std::move(classes)});
  return data::ImageFolder(path, {.labels = labels, .orientation = orientation, .classes = std::move(classes)});
}

// One of ten pictures, by its name, is held out of training: the same one whatever other pictures come and go.
[[nodiscard]] inline bool is_held_out(std::string_view name) {
  return io::hash(std::as_bytes(std::span(name))) % 10 == 0;
}

struct Split {
  data::ImageFiles train, test;
};

// A tenth of the pictures is for tests. Throws Error if there are less than two pictures.
[[nodiscard]] inline Split hold_out(const data::ImageFiles& all, const std::string& path) {
  if (all.size() < 2)
    fail("--data {}: holds one picture; training needs others, and the monitors one that is held out", path);
  std::vector<bool> held(static_cast<std::size_t>(all.size()));
  for (int i = 0; i < all.size(); ++i) held[static_cast<std::size_t>(i)] = is_held_out(all.name(i));
  if (const auto count = std::count(held.begin(), held.end(), true); count == 0 || count == all.size())
    held[0] = !held[0];
  const auto is_held = [&](int i) { return static_cast<bool>(held[static_cast<std::size_t>(i)]); };
  return {all.part([&](int i) { return !is_held(i); }), all.part(is_held)};
}

// The folders of a split within `folder`, or nothing. A folder with train/ alone is searched below it.
struct SplitFolders {
  std::filesystem::path train, test;  // test is empty if there is none
};
[[nodiscard]] inline SplitFolders split_folders(const std::filesystem::path& folder) {
  namespace fs = std::filesystem;
  if (!fs::is_directory(folder / "train")) return {folder, {}};
  for (const char* const name : {"val", "test"})
    if (fs::is_directory(folder / name)) return {folder / "train", folder / name};
  const auto folders = data::detail::PictureNames(folder).folders();
  return {folders.size() == 1 ? folder / "train" : folder, {}};
}

[[nodiscard]] inline Split find_split(const DataOptions& options) {
  const std::string& path = options.path;
  if (!std::filesystem::exists(path)) fail("--data {}: there is no such folder or file", path);
  SplitFolders folders{path, {}};
  if (std::filesystem::is_directory(path)) folders = split_folders(path);
  if (!options.test.empty()) folders.test = options.test;
  data::ImageFiles train = find_pictures(folders.train, options, options.labels);
  if (folders.test.empty()) return hold_out(train, path);
  data::ImageFiles test = find_pictures(folders.test, options, train.labelled(), train.classes());
  return {std::move(train), std::move(test)};
}

// A data set in memory without its labels.
template <class Images>
struct Unlabelled {
  static constexpr bool in_memory = true;
  Images images;

  [[nodiscard]] int size() const { return images.size(); }
  [[nodiscard]] data::ImageView decode(int i, data::Image& scratch) const { return images.decode(i, scratch); }
};

// The train and test splits of a data set that is held in memory.
template <class Images>
[[nodiscard]] Pictures open_splits(const DataOptions& options, const char* train, const char* test) {
  const std::string& folder = options.path;
  Images training(folder, train), testing(folder, test);
  data::Image scratch;
  const data::ImageView one = training.decode(0, scratch), other = testing.decode(0, scratch);
  if (one.height != other.height || one.width != other.width || one.channels != other.channels)
    fail("--data {}: training images have {} x {} pixels of {} channel(s), but test images {} x {} of {}", folder,
         one.height, one.width, one.channels, other.height, other.width, other.channels);
  if (!options.labels)
    return {data::AnyDataset(Unlabelled<Images>{std::move(training)}),
            data::AnyDataset(Unlabelled<Images>{std::move(testing)})};
  std::vector<std::string> classes;
  if constexpr (requires { training.classes(); }) classes = training.classes();
  Pictures pictures{data::AnyDataset(std::move(training)), data::AnyDataset(std::move(testing))};
  pictures.class_names = std::move(classes);
  return pictures;
}

// The data set in a folder by the names of its files; nothing if it holds none of these.
[[nodiscard]] inline std::optional<Pictures> open_in_memory(const DataOptions& options) {
  if (data::IdxDataset::is_in(options.path)) return open_splits<data::IdxDataset>(options, "train", "t10k");
  if (data::Cifar::is_in(options.path)) return open_splits<data::Cifar>(options, "train", "test");
  if (data::ArrayDataset::is_in(options.path)) return open_splits<data::ArrayDataset>(options, "train", "test");
  return std::nullopt;
}

// Room for decoded pictures. Throws Error if there is not so much memory.
[[nodiscard]] inline std::shared_ptr<data::CacheRoom> cache_room(double gib) {
  constexpr double bytes = 1 << 30;
  if (!(gib >= 0)) fail("--cache must be a number of GiB, not {}", gib);
  if (const auto free = static_cast<double>(free_memory()); gib * bytes > free)
    fail("--cache {} GiB is more than the {:.1f} GiB of memory that are free", gib, free / bytes);
  return std::make_shared<data::CacheRoom>(static_cast<std::int64_t>(gib * bytes));
}

// The facts that a user must know of pictures that were found.
[[nodiscard]] inline std::vector<std::string> remarks_on(const Split& split, const std::string& path) {
  const std::size_t classes = split.train.classes().size();
  std::vector<std::string> remarks{
      fmt::format("{}: {} pictures to train on, {} for the monitors, {}", path, split.train.size(), split.test.size(),
                  classes == 0 ? "no labels" : fmt::format("{} class{}", classes, classes == 1 ? "" : "es"))};
  if (split.train.left_out() > 0)
    remarks.push_back(fmt::format("{}: {} pictures beside the folders of classes are left out; --no-labels takes them",
                                  path, split.train.left_out()));
  if (classes == 1)
    remarks.push_back(
        fmt::format("{}: with one class the k-NN accuracy says nothing; --no-labels leaves it out", path));
  return remarks;
}

}  // namespace detail

// Opens the data sets of a run. Throws Error that names the flag, or the file.
[[nodiscard]] inline Pictures open_pictures(const DataOptions& options) {
  if (std::optional<Pictures> pictures = detail::open_in_memory(options)) return std::move(*pictures);
  detail::Split split = detail::find_split(options);
  auto damaged = std::make_shared<data::DamagedPictures>(options.max_damaged, "--");
  const auto room = detail::cache_room(options.cache);
  const auto guarded = [&](data::ImageFiles&& files) {
    data::AnyDataset pictures(data::Tolerant(std::move(files), damaged));
    return options.cache > 0 ? data::AnyDataset(data::Cached(std::move(pictures), room)) : std::move(pictures);
  };
  std::vector<std::string> classes = split.train.classes();
  std::vector<std::string> remarks = detail::remarks_on(split, options.path);
  Pictures pictures{guarded(std::move(split.train)), guarded(std::move(split.test))};
  pictures.class_names = std::move(classes);
  pictures.damaged = std::move(damaged);
  pictures.remarks = std::move(remarks);
  return pictures;
}

// The images of `part`, "train" or "test", as open_pictures splits them. Empty: all pictures of a folder or a list in
// their order, and the test images of a data set in memory. Pictures that are damaged are replaced, and named in
// `damaged`.
[[nodiscard]] inline data::AnyDataset open_part(const DataOptions& options, std::string_view part,
                                                std::shared_ptr<data::DamagedPictures> damaged) {
  if (!part.empty() && part != "train" && part != "test") fail("--split {}: there are train and test", part);
  if (std::optional<Pictures> pictures = detail::open_in_memory(options))
    return std::move(part == "train" ? pictures->train : pictures->test);
  if (!std::filesystem::exists(options.path)) fail("--data {}: there is no such folder or file", options.path);
  if (part.empty())
    return data::AnyDataset(
        data::Tolerant(detail::find_pictures(options.path, options, options.labels), std::move(damaged)));
  detail::Split split = detail::find_split(options);
  return data::AnyDataset(
      data::Tolerant(part == "train" ? std::move(split.train) : std::move(split.test), std::move(damaged)));
}

// The sizes of a data set's images, by some of them.
struct ImageSizes {
  int shorter_side = 0;  // the median, in pixels
  int channels = 1;      // 3 if one of them has colours
};
[[nodiscard]] inline ImageSizes sizes_of(const data::AnyDataset& images) {
  const data::Spread some(images, 31);
  std::vector<int> sides;
  ImageSizes sizes;
  data::Image scratch;
  for (int i = 0; i < some.size(); ++i) {
    const data::ImageView image = some.decode(i, scratch);
    sides.push_back(smaller(image.height, image.width));
    sizes.channels = larger(sizes.channels, image.channels);
  }
  std::nth_element(sides.begin(), sides.begin() + static_cast<long>(sides.size() / 2), sides.end());
  sizes.shorter_side = sides[sides.size() / 2];
  return sizes;
}

// Mean and deviation of at most 65,536 images, evenly spaced: of so many, more would not change what training sees.
// Shows progress where that takes long.
[[nodiscard]] inline data::Normalization measure(const data::AnyDataset& images, int threads) {
  constexpr int most = 1 << 16;
  constexpr double patience = 2;  // seconds
  const data::Spread some(images, most);
  const Stopwatch clock;
  Progress progress;
  return data::measure_normalization(some, threads, [&](int done) {
    if (clock.seconds() > patience && progress.due())
      progress.show(fmt::format("mean and deviation of pixels: {} of {} pictures", done, some.size()));
  });
}

}  // namespace programs
}  // namespace TESSERA_ABI
}  // namespace tessera
