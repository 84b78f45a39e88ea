// The blocks of docs/writing-a-dataset.md on the data sets that come along, on small files.
#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <string>
#include <utility>
#include <vector>

#include "support/test_data.hpp"
#include "tessera/data/array.hpp"
#include "tessera/data/cifar.hpp"
#include "tessera/data/idx.hpp"
#include "tessera/data/image_folder.hpp"
#include "tessera/data/loader.hpp"
#include "tessera/models/vit/vit.hpp"
#include "tessera/objectives/moco_v3.hpp"

namespace tessera::test {
namespace {

namespace ts = tessera;

class DatasetsOfTheDocument : public testing::Test {
 protected:
  DatasetsOfTheDocument() { std::filesystem::create_directories(folder); }
  ~DatasetsOfTheDocument() override { std::filesystem::remove_all(folder); }

  void write(const std::string& name, const std::string& bytes) const {
    std::ofstream(folder / name, std::ios::binary) << bytes;
  }

  const std::filesystem::path folder =
      std::filesystem::temp_directory_path() / ("tessera_datasets_" + std::to_string(::getpid()));
};

TEST_F(DatasetsOfTheDocument, Idx) {
  for (const std::string split : {"train", "t10k"}) {
    write(split + "-images-idx3-ubyte", std::string("\0\0\x08\x03\0\0\0\x01\0\0\0\x01\0\0\0\x02", 16) + "ab");
    write(split + "-labels-idx1-ubyte", std::string("\0\0\x08\x01\0\0\0\x01\x04", 9));
  }
  const ts::data::IdxDataset train(folder, "train"), test(folder, "t10k");
  const ts::data::Normalization normalization = ts::data::measure_normalization(train);
  EXPECT_EQ(train.label(0) + test.label(0), 8);
  EXPECT_GT(normalization.mean[0], 0);
}

TEST_F(DatasetsOfTheDocument, Cifar) {
  write("train.bin", "\x02\x05" + std::string(3072, 'a'));
  write("test.bin", "\x03\x07" + std::string(3072, 'b'));
  const ts::data::Cifar train(folder, "train"), test(folder, "test");  // CIFAR-10 or CIFAR-100, as the files say
  const ts::data::Cifar groups(folder, "train", ts::data::CifarLabels::coarse);  // the 20 groups of CIFAR-100
  const std::vector<std::string>& names = train.classes();                       // of the labels 0, 1, ...
  EXPECT_EQ(train.label(0) + groups.label(0) + test.label(0), 5 + 2 + 7);
  EXPECT_TRUE(names.empty());
}

TEST_F(DatasetsOfTheDocument, Arrays) {
  auto pixels = xt::xtensor<std::uint8_t, 4>::from_shape({3, 8, 8, 5});
  pixels.fill(7);
  io::write_npy(folder / "train_images.npy", pixels);
  io::write_npy(folder / "train_labels.npy", xt::xtensor<long, 1>{0, 1, 2});
  const std::vector<int> labels{2, 1, 0};
  const ts::data::ArrayDataset train(folder, "train");  // train_images.npy and, if it is there, train_labels.npy
  const auto unlabelled = ts::data::ArrayDataset::from_files(folder / "train_images.npy");
  const ts::data::ArrayDataset made(pixels, labels);  // images x height x width x channels; std::move saves the copy
  EXPECT_EQ(train.label(1) + made.label(0), 1 + 2);
  EXPECT_FALSE(unlabelled.labelled());

  using MoCo =
      ts::objectives::MoCoV3<ts::vit::Tiny<ts::image<28, 5>>, ts::heads::Mlp<3, 64, 32>, ts::heads::Mlp<2, 64, 32>>;
  ts::data::LoaderOptions options{.batch = 2, .normalization = ts::data::measure_normalization(train)};
  for (const auto& view : MoCo::augmentation()) options.views.push_back(view.without_colors());
  ts::data::Loader loader(train, ts::data::reads<MoCo>(), options);
  EXPECT_EQ(loader.next().crops[0].size(), 2u * 2 * 5 * 28 * 28);
}

TEST_F(DatasetsOfTheDocument, Folder) {
  for (const char* name : {"cats", "dogs"}) {
    std::filesystem::create_directory(folder / name);
    std::filesystem::copy(test_data() + "/fixtures/images/rgb8.png", folder / name / "1.png");
  }
  const ts::data::ImageFolder train(folder);                   // a folder is a class
  const std::vector<std::string>& names = train.classes();     // of the labels 0, 1, ...
  const ts::data::ImageFolder all(folder, {.labels = false});  // folders are no classes
  EXPECT_EQ(names.size(), 2u);
  EXPECT_EQ(train.size() + all.size(), 4);
}

}  // namespace
}  // namespace tessera::test
