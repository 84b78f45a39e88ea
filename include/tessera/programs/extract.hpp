// The program that writes features of images by the encoder of a checkpoint, and finds the images that are nearest to
// another. Needs CLI11, libjpeg-turbo, libpng, zlib, nlohmann-json and xtensor (tessera::programs).
#pragma once

#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <filesystem>
#include <fstream>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "tessera/data/any_dataset.hpp"
#include "tessera/io/npy.hpp"
#include "tessera/io/safetensors.hpp"
#include "tessera/programs/command.hpp"
#include "tessera/programs/names.hpp"
#include "tessera/programs/neighbours.hpp"
#include "tessera/programs/options.hpp"
#include "tessera/programs/pictures.hpp"
#include "tessera/train/callbacks/progress.hpp"

namespace tessera {
inline namespace TESSERA_ABI {
namespace programs {

// The entry whose encoder a checkpoint holds. Throws Error that lists the encoders there are.
[[nodiscard]] inline const Entry& entry_of(const std::string& checkpoint, const std::vector<Entry>& entries) {
  const io::Safetensors file(checkpoint);
  for (const char* key : {"arch", "normalization"})
    if (!file.metadata().contains(key)) fail("{}: is not a checkpoint of pretrain: it has no '{}'", checkpoint, key);
  const std::string& arch = file.metadata().at("arch");
  std::string archs;
  for (const Entry& entry : entries) {
    if (entry.encode == nullptr) continue;
    if (entry.arch == arch) return entry;
    if (archs.find(entry.arch) == std::string::npos) archs += (archs.empty() ? "" : ", ") + entry.arch;
  }
  fail("{}: has the arch '{}'; there are {}", checkpoint, arch, archs);
}

namespace detail {

// Throws Error if features cannot be saved to the file, or if it holds something else, such as the checkpoint.
inline void check_features_file(const std::filesystem::path& path) {
  io::check_replaceable(path);
  if (std::filesystem::exists(path) && std::filesystem::file_size(path) > 0 && !io::is_npy(path))
    fail("--out {}: is a file that is not an .npy file, and is not replaced; choose another name", path.string());
}

// The same for a table of features.
inline void check_csv_file(const std::filesystem::path& path) {
  io::check_replaceable(path);
  std::string start(5, '\0');
  std::ifstream(path).read(start.data(), static_cast<std::streamsize>(start.size()));
  if (std::filesystem::exists(path) && std::filesystem::file_size(path) > 0 && start != "name,")
    fail("--csv {}: is a file that is not a table of features, and is not replaced; choose another name",
         path.string());
}

// Rows of features, and the numbers of their images in the data set.
struct Extracted {
  FeatureSet features;
  std::vector<int> numbers;
};

// Leaves out the rows of damaged images, in whose place others were encoded. names: of all images.
[[nodiscard]] inline Extracted without_damaged(const FeatureSet& all, const std::vector<std::string>& names,
                                               const std::vector<std::string>& damaged) {
  const std::set<std::string> wrong(damaged.begin(), damaged.end());
  Extracted kept{{{}, {}, all.width}, {}};
  for (std::size_t i = 0; i < names.size(); ++i) {
    if (wrong.contains(names[i])) continue;
    const auto row = all.values.begin() + static_cast<index>(i) * all.width;
    kept.features.values.insert(kept.features.values.end(), row, row + all.width);
    if (!all.labels.empty()) kept.features.labels.push_back(all.labels[i]);
    kept.numbers.push_back(static_cast<int>(i));
  }
  kept.features.rows = static_cast<index>(kept.numbers.size());
  return kept;
}

// The picture of --neighbours, and where its neighbours are drawn.
struct Question {
  QueryPicture picture;
  std::filesystem::path page;
  int count;

  // Prints the `count` pictures whose features are nearest to the picture's, and draws them. names: of all images.
  void answer(const FeatureSet& own, const Extracted& extracted, const data::AnyDataset& images,
              const std::vector<std::string>& names, int threads) const {
    ThreadPool pool(threads);
    const FeatureSet& features = extracted.features;
    auto found = eval::nearest(pool, features.view(), own.view(), smaller(index{count}, features.rows));
    for (auto& one : found) one.row = extracted.numbers[static_cast<std::size_t>(one.row)];
    write_page(page, neighbours_page(picture, images, names, found));
    print(fmt::format("nearest to {}, by cosine similarity; {} shows them:\n{}", picture.name(0), page.string(),
                      neighbours_text(names, found)));
  }
};

}  // namespace detail

// Writes the features of images, their names, and on demand a table of both; answers --neighbours.
inline int extract(int argc, char** argv, const std::vector<Entry>& entries) {
  DataOptions data;
  std::string split, checkpoint, out = "features.npy", csv, query;
  int threads = 0, count = 10;
  CLI::App app("Features of pictures by a checkpoint of pretrain, as .npy.");
  set_up(app);
  add_data_flags(app, data);
  app.add_option("--split", split,
                 "train or test, as pretrain takes them; none: all pictures, or the test images of IDX files");
  app.add_option("--checkpoint", checkpoint, "checkpoint.safetensors of a run")->required();
  app.add_option("--out", out, "file to write; the names of the images come beside it, as .names.txt");
  app.add_option("--csv", csv, "file to write as well: a table of names, labels and features");
  app.add_option("--neighbours", query, "JPEG or PNG: print the nearest images, draw them in neighbours.html by --out");
  app.add_option("--neighbours-count", count, "number of nearest images")->check(CLI::Range(1, 1000));
  app.add_option("--threads", threads, "threads that compute; 0: every processor");
  if (!parse(app, argc, argv)) return 0;
  const Entry& entry = entry_of(checkpoint, entries);
  detail::check_features_file(out);
  io::check_replaceable(names_file(out));
  if (!csv.empty()) detail::check_csv_file(csv);
  std::optional<detail::Question> question;
  if (!query.empty())
    question.emplace(detail::Question{QueryPicture(query, entry.channels),
                                      std::filesystem::path(out).replace_filename("neighbours.html"), count});
  if (question) io::check_replaceable(question->page);
  const auto damaged = std::make_shared<data::DamagedPictures>(data.max_damaged, "--");
  const data::AnyDataset images = open_part(data, split, damaged);
  const std::vector<std::string> names = picture_names(images);

  const detail::Extracted extracted =
      detail::without_damaged(entry.encode(checkpoint, images, threads), names, damaged->names());
  const FeatureSet& features = extracted.features;
  std::vector<std::string> kept;
  for (const int number : extracted.numbers) kept.push_back(names[static_cast<std::size_t>(number)]);
  for (const std::string& problem : damaged->problems()) print(problem + "; left out\n");
  io::write_npy(out, features.values.data(), static_cast<std::size_t>(features.rows),
                static_cast<std::size_t>(features.width));
  write_names(names_file(out), kept);
  if (!csv.empty()) io::replace_file(csv, features_csv(features, kept));
  print(
      fmt::format("{}: {} x {} features; names in {}\n", out, features.rows, features.width, names_file(out).string()));
  if (question)
    question->answer(entry.encode(checkpoint, data::AnyDataset(question->picture), threads), extracted, images, names,
                     threads);
  return 0;
}

}  // namespace programs
}  // namespace TESSERA_ABI
}  // namespace tessera
