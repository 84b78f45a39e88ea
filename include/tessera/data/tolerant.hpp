// Damaged pictures: counted, named and replaced.
#pragma once

#include <fmt/format.h>

#include <atomic>
#include <cstddef>
#include <filesystem>
#include <fstream>
#include <memory>
#include <mutex>
#include <string>
#include <string_view>
#include <system_error>
#include <utility>
#include <vector>

#include "tessera/core/abi.hpp"
#include "tessera/core/errors.hpp"
#include "tessera/data/dataset.hpp"

namespace tessera {
inline namespace TESSERA_ABI {
namespace data {

// The pictures of some data sets that could not be read or decoded. Any thread may call it.
class DamagedPictures {
 public:
  // most: the largest share of all pictures, 0 to 1. `prefix` stands in front of "max-damaged" in the message, such as
  // "--" for a program's flag.
  explicit DamagedPictures(double most, std::string_view prefix = "") : most_(most), prefix_(prefix) {
    if (!(most >= 0 && most <= 1)) fail("{}max-damaged must lie between 0 and 1, not {}", prefix, most);
  }

  // Counts pictures that may turn out to be damaged.
  void expect(int pictures) { pictures_ += pictures; }
  [[nodiscard]] int count() const noexcept { return count_; }
  [[nodiscard]] std::vector<std::string> names() const {
    const std::lock_guard lock(mutex_);
    return names_;
  }
  // A sentence for each of them that names the file and says what is wrong.
  [[nodiscard]] std::vector<std::string> problems() const {
    const std::lock_guard lock(mutex_);
    return problems_;
  }

  // Counts a picture that is damaged. Throws Error if it is one too many.
  void add(const std::string& name, const std::string& problem) {
    const std::lock_guard lock(mutex_);
    ++count_;
    names_.push_back(name);
    problems_.push_back(problem);
    lines_ += name + '\t' + problem + '\n';
    write();
    if (count_ > most_ * static_cast<double>(pictures_))
      fail(
          "{} of {} pictures could not be read or decoded, which is more than {}max-damaged {} allows; the last one: "
          "{}",
          count_.load(), pictures_.load(), prefix_, most_, problem);
  }

  // Writes the pictures to a file, those that were added before and those to come: a line has the name, a tab, and
  // what is wrong. A file that is there is removed; a new one is made when there is a picture.
  void write_to(std::filesystem::path path) {
    const std::lock_guard lock(mutex_);
    path_ = std::move(path);
    std::error_code none;
    std::filesystem::remove(path_, none);
    write();
  }

 private:
  void write() {
    if (path_.empty() || lines_.empty()) return;
    std::ofstream file(path_, std::exchange(started_, true) ? std::ios::app : std::ios::trunc);
    if (file << lines_ << std::flush) lines_.clear();  // otherwise with the next one
  }

  double most_;
  std::string prefix_, lines_;  // lines that are not written yet
  std::vector<std::string> names_, problems_;
  std::filesystem::path path_;
  bool started_ = false;
  std::atomic<int> count_{0};
  std::atomic<std::int64_t> pictures_{0};
  mutable std::mutex mutex_;
};

// A data set in which a picture that cannot be read or decoded is replaced by the next one that can, of the same label
// if there is any. It stays replaced: image i is always the same image while files stay as they are.
template <LabelledDataset Images>
class Tolerant {
 public:
  Tolerant(Images images, std::shared_ptr<DamagedPictures> damaged)
      : images_(std::move(images)),
        damaged_(std::move(damaged)),
        known_(std::make_unique<std::atomic<bool>[]>(static_cast<std::size_t>(images_.size()))) {
    damaged_->expect(images_.size());
  }

  [[nodiscard]] int size() const { return images_.size(); }
  [[nodiscard]] bool labelled() const { return images_.labelled(); }
  [[nodiscard]] int label(int i) const { return images_.label(i); }
  [[nodiscard]] std::string name(int i) const { return images_.name(i); }

  // Throws Error if there are too many damaged pictures, or no others.
  [[nodiscard]] ImageView decode(int i, Image& scratch) const {
    return instead_of(i, [&](int at) { return images_.decode(at, scratch); });
  }
  [[nodiscard]] ScaledImage decode_scaled(int i, Image& scratch,
                                          const ScaleChoice& choose) const requires ScalingDataset<Images> {
    return instead_of(i, [&](int at) { return images_.decode_scaled(at, scratch, choose); });
  }

 private:
  // decode(at) for the first picture from i on that does not throw.
  template <class Decode>
  [[nodiscard]] auto instead_of(int i, Decode&& decode) const {
    for (;;) {
      const int at = first_whole(i);
      try {
        return decode(at);
      } catch (const Error& problem) {
        if (!known_[static_cast<std::size_t>(at)].exchange(true)) damaged_->add(images_.name(at), problem.what());
      }
    }
  }
  // The first picture from i on, all around, that is not known to be damaged.
  [[nodiscard]] int first_whole(int i) const {
    int other = -1;  // of another label
    for (int step = 0; step < size(); ++step) {
      const int at = static_cast<int>((static_cast<std::int64_t>(i) + step) % size());
      if (known_[static_cast<std::size_t>(at)]) continue;
      if (label(at) == label(i)) return at;
      if (other < 0) other = at;
    }
    if (other < 0) fail("none of {} pictures can be read and decoded", size());
    return other;
  }

  Images images_;
  std::shared_ptr<DamagedPictures> damaged_;
  std::unique_ptr<std::atomic<bool>[]> known_;  // pictures that are damaged
};

}  // namespace data
}  // namespace TESSERA_ABI
}  // namespace tessera
