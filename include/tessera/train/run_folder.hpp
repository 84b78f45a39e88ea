// The folder of a run, in which no run destroys the results of another. Needs nlohmann-json (tessera::io).
#pragma once

#include <fmt/format.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <cstring>
#include <filesystem>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <system_error>
#include <vector>

#include "tessera/core/errors.hpp"
#include "tessera/io/file.hpp"
#include "tessera/train/recipe.hpp"

namespace tessera {
inline namespace TESSERA_ABI {

namespace detail {

[[nodiscard]] inline std::string this_process() {
  std::array<char, 256> host{};
  if (::gethostname(host.data(), host.size() - 1) != 0) std::strcpy(host.data(), "?");
  return fmt::format("process {} on {}", ::getpid(), host.data());
}

// A file that one process at a time can hold; it names that process. The system lets go of it when the process ends, in
// whatever way.
class LockFile {
 public:
  // Throws Error that names who holds the file.
  explicit LockFile(std::filesystem::path path) : path_(std::move(path)) {
    while (!take()) {
    }
    try {
      file_->clear();
      const std::string owner = this_process() + "\n";
      file_->write(std::as_bytes(std::span(owner)));
    } catch (const Error&) {  // the disk is full: a file without a name is locked as well
    }
  }
  LockFile(const LockFile&) = delete;
  LockFile& operator=(const LockFile&) = delete;
  ~LockFile() { ::unlink(path_.c_str()); }

  // False where the file system has no locks.
  [[nodiscard]] bool excludes_others() const noexcept { return locked_; }

 private:
  // False if the file that was locked is not that of the name any more, since its holder has just removed it.
  [[nodiscard]] bool take() {
    file_.emplace(path_, O_RDWR | O_CREAT);
    locked_ = file_->lock();
    if (!locked_ && errno == EWOULDBLOCK) {
      std::string owner = io::read_file(path_, 1 << 10);
      if (owner.ends_with('\n')) owner.pop_back();
      fail("{} runs there; wait for it, or choose another folder",
           owner.empty() ? std::string("another process") : owner);
    }
    struct stat named {};
    const struct stat mine = file_->state();
    return ::stat(path_.c_str(), &named) == 0 && named.st_dev == mine.st_dev && named.st_ino == mine.st_ino;
  }

  std::filesystem::path path_;
  std::optional<io::detail::Descriptor> file_;
  bool locked_ = false;
};

}  // namespace detail

// Holds the folder recipe.out for a run, from its start until the last result is written: docs/running.md. It is made
// on the rank that writes files.
class RunFolder {
 public:
  // Makes the folder, takes its lock, removes what killed runs have left unfinished, and makes sure that files can be
  // saved there. The recipe must outlive it. Throws Error if that is not possible, if another process runs there, or if
  // the folder holds a run and the recipe says neither `resume` nor `overwrite`; the message names these with `prefix`
  // in front: "--" for a program's flags.
  explicit RunFolder(const Recipe& recipe, std::string_view prefix = "") : recipe_(recipe), prefix_(prefix) {
    const std::filesystem::path& out = recipe.out;
    prepared([&] {
      io::make_folder(out);
      lock_.emplace(out / "run.lock");
      for (const char* name : files) {
        io::check_replaceable(out / name);
        io::remove_unfinished(out / name);
      }
    });
    if (!lock_->excludes_others())
      remarks_.push_back(fmt::format("{}: has no locks; see that no other run uses it", out.string()));
    if (continues() && recipe.overwrite)
      fail("{}overwrite would remove the checkpoint that {}resume continues from; leave one of them out", prefix_,
           prefix_);
    if (recipe.resume.empty() && !recipe.overwrite) refuse_results();
  }

  // Gives the folder to the run, which writes into it from now on: removes the files of the run that is overwritten,
  // and puts metrics of a run that left nothing else aside. To be called once all else that the run needs is there.
  // Throws Error if the folder holds a run, but not the one that is continued.
  void begin() {
    if (continues()) return;
    if (recipe_.overwrite) {
      for (const char* name : files) io::detail::remove_file(recipe_.out / name);
    } else {
      refuse_results();
      put_metrics_aside();
    }
    io::sync_folder(recipe_.out);
  }

  // Sentences that the user must read.
  [[nodiscard]] const std::vector<std::string>& remarks() const noexcept { return remarks_; }

 private:
  // The checkpoint, without which nothing can be continued, comes last.
  static constexpr std::array files{"report.html",           "features.names.txt", "labels.npy",
                                    "features.npy",          "metrics.jsonl",      "products.txt",
                                    "checkpoint.safetensors"};
  // Files of a run that left nothing else are no results.
  [[nodiscard]] static bool is_result(std::string_view name) {
    return name != "metrics.jsonl" && name != "products.txt";
  }

  template <class Body>
  void prepared(Body&& body) const {
    try {
      body();
    } catch (const Error& problem) {
      fail("{}out {}: {}", prefix_, recipe_.out.string(), problem.what());
    } catch (const std::filesystem::filesystem_error& problem) {
      fail("{}out {}: {}", prefix_, recipe_.out.string(), problem.code().message());
    }
  }

  // True if the run goes on in the folder of the checkpoint that it continues from.
  [[nodiscard]] bool continues() const {
    std::error_code none;
    return !recipe_.resume.empty() &&
           std::filesystem::equivalent(io::detail::folder_of(recipe_.resume), recipe_.out, none);
  }

  void refuse_results() const {
    for (const char* name : files)
      if (is_result(name) && std::filesystem::exists(recipe_.out / name))
        fail("{0}out {1}: holds {2}: {3}{0}overwrite replaces its results, and another {0}out keeps them", prefix_,
             recipe_.out.string(), recipe_.resume.empty() ? "a run" : "another run than the one that is continued",
             std::filesystem::exists(recipe_.checkpoint()) && recipe_.resume.empty()
                 ? fmt::format("{}resume {} continues it, ", prefix_, recipe_.checkpoint().string())
                 : "");
  }

  void put_metrics_aside() {
    std::error_code none;
    if (std::filesystem::file_size(recipe_.metrics(), none) == 0 || none) return;
    std::filesystem::path aside;
    for (int number = 1; aside.empty() || std::filesystem::exists(aside); ++number)
      aside = recipe_.out / fmt::format("metrics.{}.jsonl", number);
    io::detail::rename_file(recipe_.metrics(), aside);
    remarks_.push_back(fmt::format("{}: is now {}, for it is of a run that left no checkpoint",
                                   recipe_.metrics().string(), aside.filename().string()));
  }

  const Recipe& recipe_;
  std::string prefix_;
  std::optional<detail::LockFile> lock_;
  std::vector<std::string> remarks_;
};

}  // namespace TESSERA_ABI
}  // namespace tessera
