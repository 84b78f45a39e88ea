#include "tessera/io/file.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <string>

namespace tessera::test {
namespace {

using testing::HasSubstr;
using testing::ThrowsMessage;

class File : public testing::Test {
 protected:
  File() { std::filesystem::create_directory(folder); }
  ~File() override { std::filesystem::remove_all(folder); }

  void write(const std::string& name) const { std::ofstream(folder / name) << name; }
  [[nodiscard]] bool there(const std::string& name) const { return std::filesystem::exists(folder / name); }

  const std::filesystem::path folder =
      std::filesystem::temp_directory_path() / ("tessera_file_" + std::to_string(::getpid()));
};

TEST_F(File, IsReplacedAndLeavesNothingElse) {
  io::replace_file(folder / "a", "one");
  io::replace_file(folder / "a", "two");
  EXPECT_EQ(io::read_file(folder / "a", 10), "two");
  EXPECT_EQ(std::distance(std::filesystem::directory_iterator(folder), {}), 1);
}

TEST_F(File, FoldersAreMadeWithThoseAbove) {
  io::make_folder(folder / "a" / "b" / "");
  EXPECT_TRUE(std::filesystem::is_directory(folder / "a" / "b"));
  io::make_folder(folder / "a" / "b");
  write("file");
  EXPECT_THAT([&] { io::make_folder(folder / "file" / "c"); },
              ThrowsMessage<Error>(HasSubstr("file: mkdir failed: File exists")));
}

TEST_F(File, WhatCannotBeReplacedIsNamed) {
  EXPECT_NO_THROW(io::check_replaceable(folder / "new"));
  EXPECT_FALSE(there("new"));
  write("old");
  EXPECT_NO_THROW(io::check_replaceable(folder / "old"));
  EXPECT_EQ(io::read_file(folder / "old", 10), "old");
  EXPECT_THAT([&] { io::check_replaceable(folder); }, ThrowsMessage<Error>(HasSubstr("is not a regular file")));
  EXPECT_THAT([&] { io::check_replaceable(folder / "none" / "x"); },
              ThrowsMessage<Error>(HasSubstr("open failed: No such file or directory")));
  EXPECT_THAT([&] { io::check_replaceable(folder / std::string(250, 'n')); },
              ThrowsMessage<Error>(HasSubstr("File name too long")));
  EXPECT_EQ(std::distance(std::filesystem::directory_iterator(folder), {}), 1);
}

TEST_F(File, UnfinishedFilesOfItsNameAreRemoved) {
  for (const char* name : {"a", "a.1.tmp", "a.4194304.tmp", "a.tmp", "a..tmp", "a.b.tmp", "b.1.tmp", "a.1.tmp.keep"})
    write(name);
  io::remove_unfinished(folder / "a");
  EXPECT_FALSE(there("a.1.tmp"));
  EXPECT_FALSE(there("a.4194304.tmp"));
  for (const char* name : {"a", "a.tmp", "a..tmp", "a.b.tmp", "b.1.tmp", "a.1.tmp.keep"})
    EXPECT_TRUE(there(name)) << name;
}

}  // namespace
}  // namespace tessera::test
