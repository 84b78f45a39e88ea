#include "tessera/train/run_folder.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/file.h>
#include <sys/wait.h>
#include <unistd.h>

#include <csignal>
#include <filesystem>
#include <fstream>
#include <map>
#include <string>

namespace tessera::test {
namespace {

using testing::AllOf;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;
using testing::Not;
using testing::ThrowsMessage;

class RunFolderTest : public testing::Test {
 protected:
  RunFolderTest() { recipe.out = folder / "run"; }
  ~RunFolderTest() override { std::filesystem::remove_all(folder); }

  void write(const std::string& name) const {
    std::filesystem::create_directories(recipe.out);
    std::ofstream(recipe.out / name) << name;
  }
  [[nodiscard]] std::map<std::string, std::string> files() const {
    std::map<std::string, std::string> files;
    for (const auto& entry : std::filesystem::directory_iterator(recipe.out))
      files[entry.path().filename()] = io::read_file(entry.path(), 1000);
    return files;
  }
  void expect_refused(const testing::Matcher<const std::string&>& sentence) const {
    const auto before = files();
    EXPECT_THAT([&] { RunFolder(recipe, "--").begin(); }, ThrowsMessage<Error>(sentence));
    EXPECT_EQ(files(), before);
  }

  const std::filesystem::path folder =
      std::filesystem::temp_directory_path() / ("tessera_run_folder_" + std::to_string(::getpid()));
  Recipe recipe;
};

TEST_F(RunFolderTest, IsMadeAndLockedWhileItLives) {
  {
    RunFolder run(recipe);
    run.begin();
    EXPECT_THAT(files(), ElementsAre(testing::Pair("run.lock", HasSubstr("process " + std::to_string(::getpid())))));
    EXPECT_THAT([&] { RunFolder(recipe, "--"); },
                ThrowsMessage<Error>(AllOf(HasSubstr("--out " + recipe.out.string()), HasSubstr("process "),
                                           HasSubstr(" on "), HasSubstr("wait for it"))));
  }
  EXPECT_THAT(files(), IsEmpty());
  EXPECT_NO_THROW(static_cast<void>(RunFolder(recipe)));
}

TEST_F(RunFolderTest, TheLockOfAKilledProcessIsNone) {
  const pid_t child = ::fork();
  if (child == 0) {
    RunFolder run(recipe);
    ::raise(SIGKILL);
  }
  int status = 0;
  ::waitpid(child, &status, 0);
  EXPECT_TRUE(WIFSIGNALED(status));
  EXPECT_TRUE(files().contains("run.lock"));
  EXPECT_NO_THROW(static_cast<void>(RunFolder(recipe)));
  EXPECT_THAT(files(), IsEmpty());
}

TEST_F(RunFolderTest, ARunIsRefusedAndLeftAsItIs) {
  for (const char* name : {"report.html", "features.npy", "labels.npy"}) {
    write(name);
    expect_refused(AllOf(HasSubstr("--out " + recipe.out.string() + ": holds a run"), HasSubstr("--overwrite"),
                         Not(HasSubstr("--resume"))));
    std::filesystem::remove(recipe.out / name);
  }
  write("checkpoint.safetensors");
  write("metrics.jsonl");
  expect_refused(AllOf(HasSubstr("--resume " + recipe.checkpoint().string() + " continues it"),
                       HasSubstr("--overwrite"), HasSubstr("another --out")));
}

TEST_F(RunFolderTest, IsContinuedFromItsOwnCheckpointAlone) {
  for (const char* name : {"checkpoint.safetensors", "metrics.jsonl", "report.html"}) write(name);
  const auto before = files();
  recipe.resume = recipe.out / ".." / "run" / "checkpoint.safetensors";
  RunFolder(recipe).begin();
  EXPECT_EQ(files(), before);
  recipe.resume = folder / "other" / "checkpoint.safetensors";
  expect_refused(HasSubstr("holds another run than the one that is continued"));
  recipe.out = folder / "new";
  RunFolder(recipe).begin();
}

TEST_F(RunFolderTest, IsOverwrittenOnRequestWhenTheRunBegins) {
  for (const char* name : {"checkpoint.safetensors", "metrics.jsonl", "report.html", "notes.txt"}) write(name);
  recipe.overwrite = true;
  {
    RunFolder run(recipe);
    EXPECT_EQ(files().size(), 5u);
    run.begin();
  }
  EXPECT_THAT(files(), ElementsAre(testing::Pair("notes.txt", "notes.txt")));
  write("checkpoint.safetensors");
  recipe.resume = recipe.checkpoint();
  expect_refused(HasSubstr("--overwrite would remove the checkpoint that --resume continues from"));
}

TEST_F(RunFolderTest, MetricsOfARunWithoutACheckpointAreKept) {
  for (const char* name : {"metrics.1.jsonl", "metrics.jsonl"}) write(name);
  RunFolder run(recipe);
  run.begin();
  EXPECT_THAT(run.remarks(), ElementsAre(HasSubstr("metrics.jsonl: is now metrics.2.jsonl")));
  EXPECT_EQ(files().at("metrics.1.jsonl"), "metrics.1.jsonl");
  EXPECT_EQ(files().at("metrics.2.jsonl"), "metrics.jsonl");
  EXPECT_FALSE(files().contains("metrics.jsonl"));
}

TEST_F(RunFolderTest, ChoicesOfProductsAreNoRunAndGoWithOne) {
  write("products.txt");
  RunFolder(recipe).begin();
  EXPECT_TRUE(files().contains("products.txt"));
  write("checkpoint.safetensors");
  expect_refused(HasSubstr("holds a run"));
  recipe.overwrite = true;
  RunFolder(recipe).begin();
  EXPECT_THAT(files(), IsEmpty());
}

TEST_F(RunFolderTest, UnfinishedFilesAreRemoved) {
  for (const char* name : {"checkpoint.safetensors.12.tmp", "report.html.7.tmp", "mine.12.tmp"}) write(name);
  const RunFolder run(recipe);
  EXPECT_FALSE(files().contains("checkpoint.safetensors.12.tmp"));
  EXPECT_FALSE(files().contains("report.html.7.tmp"));
  EXPECT_TRUE(files().contains("mine.12.tmp"));
}

TEST_F(RunFolderTest, WhatCannotBeSavedToIsFoundAtOnce) {
  std::filesystem::create_directories(recipe.out / "checkpoint.safetensors");
  EXPECT_THAT([&] { RunFolder(recipe, "--"); },
              ThrowsMessage<Error>(HasSubstr("checkpoint.safetensors: is not a regular file")));
  recipe.out = "/proc/run";
  EXPECT_THAT([&] { static_cast<void>(RunFolder(recipe, "--")); },
              ThrowsMessage<Error>(HasSubstr("--out /proc/run: ")));
}

}  // namespace
}  // namespace tessera::test
