#include "tessera/io/safetensors.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/resource.h>

#include <csignal>
#include <fstream>
#include <numeric>

namespace tessera::test {
namespace {

using namespace io;

std::filesystem::path scratch(const std::string& name) {
  return std::filesystem::temp_directory_path() / ("tessera_" + std::to_string(::getpid()) + "_" + name);
}

void write_raw(const std::filesystem::path& path, const std::string& bytes) {
  std::ofstream(path, std::ios::binary).write(bytes.data(), static_cast<std::streamsize>(bytes.size()));
}

std::string with_header(std::uint64_t length, const std::string& rest) {
  return std::string(reinterpret_cast<const char*>(&length), 8) + rest;
}
std::string file_of(const std::string& header, std::size_t data = 0) {
  return with_header(header.size(), header + std::string(data, '\1'));
}

class SafetensorsTest : public testing::Test {
 protected:
  ~SafetensorsTest() override { std::filesystem::remove(path); }

  void expect_refused(const std::string& bytes, const std::string& sentence) const {
    write_raw(path, bytes);
    EXPECT_THAT([&] { Safetensors file(path); }, testing::ThrowsMessage<Error>(testing::AllOf(
                                                     testing::HasSubstr(path.string()), testing::HasSubstr(sentence))))
        << bytes.substr(0, 200);
  }

  const std::filesystem::path path = scratch("hostile.safetensors");
};

TEST_F(SafetensorsTest, ReadsWhatItWrote) {
  std::vector<float> weights(6);
  std::iota(weights.begin(), weights.end(), 0.5f);
  const std::int64_t count = std::int64_t{1} << 40;
  const std::vector<TensorToWrite> tensors{{"weight", Dtype::f32, {2, 3}, std::as_bytes(std::span(weights))},
                                           {"count", Dtype::i64, {}, std::as_bytes(std::span(&count, 1))},
                                           {"empty", Dtype::f64, {0, 4}, {}}};
  write_safetensors(path, tensors, {{"arch", "vit \"quoted\""}});
  const Safetensors file(path);
  EXPECT_EQ(file.metadata().at("arch"), "vit \"quoted\"");
  EXPECT_EQ(file.read<float>("weight"), weights);
  EXPECT_EQ(file.read<double>("weight")[5], 5.5);
  EXPECT_EQ(file.read<std::int64_t>("count"), std::vector<std::int64_t>{count});
  EXPECT_EQ(file.shape("count"), std::vector<std::int64_t>{});
  EXPECT_TRUE(file.read<double>("empty").empty());
  std::vector<float> wrong(8);
  const std::vector<std::int64_t> shape{2, 4};
  EXPECT_THAT([&] { file.read_into<float>("weight", shape, std::span(wrong)); },
              testing::ThrowsMessage<Error>(testing::HasSubstr("tensor 'weight' has shape [2, 3], expected [2, 4]")));
  EXPECT_THAT([&] { static_cast<void>(file.read<float>("bias")); },
              testing::ThrowsMessage<Error>(testing::HasSubstr("has no tensor 'bias'")));
}

TEST_F(SafetensorsTest, RefusesHostileHeaders) {
  expect_refused("", "too few");
  expect_refused("1234567", "too few");
  expect_refused(with_header(100, "{}"), "states a header of 100 bytes");
  expect_refused(with_header(~std::uint64_t{0}, "{}"), "states a header of 18446744073709551615 bytes");
  expect_refused(with_header(~std::uint64_t{0} - 7, "{}"), "states a header");
  expect_refused(with_header(0, ""), "does not start with");
  expect_refused(file_of("[]"), "does not start with");
  expect_refused(file_of("{"), "not valid JSON");
  expect_refused(file_of("{}x"), "not valid JSON");
  expect_refused(file_of("{\"\xff\":1}"), "not valid JSON");
  std::string deep = "{\"a\":";
  for (int i = 0; i < 100000; ++i) deep += "[";
  expect_refused(file_of(deep), "a list");
  std::string objects;
  for (int i = 0; i < 100000; ++i) objects += "{\"a\":";
  expect_refused(file_of(objects), "unknown field");
  expect_refused(file_of(R"({"a":null})"), "a null");
  expect_refused(file_of(R"({"a":true})"), "a truth value");
  expect_refused(file_of(R"({"a":1})"), "the number 1");
  expect_refused(file_of(R"({"a":"x"})"), "the text 'x'");
  expect_refused(file_of(R"({"":{}})"), "name of 0 bytes");
  expect_refused(file_of("{\"" + std::string(1025, 'n') + "\":{}}"), "name of 1025 bytes");
  const auto tensor = [](const std::string& body) { return "{\"a\":{" + body + "}}"; };
  const std::string good = R"("dtype":"F32","shape":[2],"data_offsets":[0,8])";
  write_raw(path, file_of(tensor(good), 8));
  EXPECT_NO_THROW(Safetensors{path});
  expect_refused(file_of("{\"a\":{" + good + "},\"a\":{" + good + "}}", 8), "'a' twice");
  expect_refused(file_of(tensor(good + R"(,"shape":[2])"), 8), "'shape' twice");
  expect_refused(file_of(tensor(good + R"(,"color":"red")"), 8), "unknown field 'color'");
  expect_refused(file_of(tensor(R"("dtype":"F32","shape":[2])"), 8), "lacks");
  expect_refused(file_of(tensor(R"("dtype":"F32","data_offsets":[0,8])"), 8), "lacks");
  expect_refused(file_of(tensor(R"("shape":[2],"data_offsets":[0,8])"), 8), "lacks");
  expect_refused(file_of(tensor(R"("dtype":"F31","shape":[2],"data_offsets":[0,8])"), 8), "unknown dtype 'F31'");
  expect_refused(file_of(tensor(R"("dtype":32,"shape":[2],"data_offsets":[0,8])"), 8), "the number 32");
  expect_refused(file_of(tensor(R"("dtype":"F32","shape":[-2],"data_offsets":[0,8])"), 8), "negative");
  expect_refused(file_of(tensor(R"("dtype":"F32","shape":[2.0],"data_offsets":[0,8])"), 8), "not an integer");
  expect_refused(file_of(tensor(R"("dtype":"F32","shape":[1e3],"data_offsets":[0,8])"), 8), "not an integer");
  expect_refused(file_of(tensor(R"("dtype":"F32","shape":["2"],"data_offsets":[0,8])"), 8), "the text");
  expect_refused(file_of(tensor(R"("dtype":"F32","shape":[[2]],"data_offsets":[0,8])"), 8), "a list");
  expect_refused(file_of(tensor(R"("dtype":"F32","shape":[1,1,1,1,1,1,1,1,2],"data_offsets":[0,8])"), 8),
                 "8 dimensions");
  expect_refused(file_of(tensor(R"("dtype":"F32","shape":[4294967296,4294967296],"data_offsets":[0,0])")),
                 "impossible");
  expect_refused(file_of(tensor(R"("dtype":"F32","shape":[4611686018427387904],"data_offsets":[0,0])")), "impossible");
  expect_refused(file_of(tensor(R"("dtype":"F32","shape":[18446744073709551615],"data_offsets":[0,8])"), 8), "number");
  expect_refused(file_of(tensor(R"("dtype":"F32","shape":[2],"data_offsets":[8,0])"), 8), "before it starts");
  expect_refused(file_of(tensor(R"("dtype":"F32","shape":[2],"data_offsets":[0,4])"), 8), "needs 8");
  expect_refused(file_of(tensor(R"("dtype":"F32","shape":[2],"data_offsets":[0])"), 8), "lacks");
  expect_refused(file_of(tensor(R"("dtype":"F32","shape":[2],"data_offsets":[0,8,9])"), 8), "more than two");
  expect_refused(file_of(tensor(R"("dtype":"F32","shape":[2],"data_offsets":[4,12])"), 12), "expected 0");
  expect_refused(file_of(tensor(good), 4), "but its tensors take 8");
  expect_refused(file_of(tensor(good), 9), "but its tensors take 8");
  expect_refused(
      file_of(
          R"({"a":{"dtype":"U8","shape":[4],"data_offsets":[0,4]},"b":{"dtype":"U8","shape":[4],"data_offsets":[2,6]}})",
          6),
      "starts at byte 2 of the data, expected 4");
  expect_refused(file_of(R"({"__metadata__":{"k":1}})"), "the number 1");
  expect_refused(file_of(R"({"__metadata__":{"k":{}}})"), "an object");
  expect_refused(file_of(R"({"__metadata__":{"k":"1","k":"2"}})"), "'k' twice");
}

// Reads all that there is.
void read_all(const std::filesystem::path& path) {
  const Safetensors file(path);
  for (const std::string& name : file.names()) static_cast<void>(file.read<double>(name));
}

TEST_F(SafetensorsTest, EveryTruncationAndEveryFlippedBitIsRefused) {
  const std::vector<float> values{1, 2, 3};
  const std::int64_t count = 7;
  const std::vector<TensorToWrite> tensors{{"a", Dtype::f32, {3}, std::as_bytes(std::span(values))},
                                           {"b.c", Dtype::i64, {}, std::as_bytes(std::span(&count, 1))}};
  write_safetensors(path, tensors, {{"k", "v"}, {"step", "12"}});
  const std::string whole = read_file(path, 1 << 20);
  read_all(path);
  for (std::size_t length = 0; length < whole.size(); ++length) {
    write_raw(path, whole.substr(0, length));
    EXPECT_THROW(Safetensors{path}, Error) << length;
  }
  for (std::size_t bit = 0; bit < whole.size() * 8; ++bit) {
    std::string flipped = whole;
    flipped[bit / 8] = static_cast<char>(flipped[bit / 8] ^ (1 << bit % 8));
    write_raw(path, flipped);
    EXPECT_THROW(read_all(path), Error) << "bit " << bit % 8 << " of byte " << bit / 8 << ": " << flipped;
  }
}

TEST_F(SafetensorsTest, ChecksumsAreInTheMetadataAndCanBeLeftOut) {
  const std::vector<float> values{1, 2, 3};
  const std::vector<TensorToWrite> tensors{{"a", Dtype::f32, {3}, std::as_bytes(std::span(values))}};
  write_safetensors(path, tensors, {{"k", "v"}});
  const std::string whole = read_file(path, 1 << 20), sum = hash_text(hash(tensors[0].bytes));
  EXPECT_THAT(whole, testing::HasSubstr("\"xxh3.a\":\"" + sum + "\""));
  EXPECT_EQ(Safetensors(path).metadata(), (std::map<std::string, std::string>{{"k", "v"}}));

  std::string damaged = whole;
  damaged.back() ^= 1;
  write_raw(path, damaged);
  EXPECT_THAT([&] { read_all(path); },
              testing::ThrowsMessage<Error>(testing::AllOf(testing::HasSubstr(path.string() + ": tensor 'a' has"),
                                                           testing::HasSubstr("written with " + sum))));
  // As other programs write it.
  write_raw(path,
            file_of(R"({"a":{"dtype":"F32","shape":[3],"data_offsets":[0,12]}})") + whole.substr(whole.size() - 12));
  EXPECT_EQ(Safetensors(path).read<float>("a"), values);
  // A program that keeps the metadata, but not the tensors.
  write_raw(path,
            file_of(R"({"__metadata__":{"xxh3.a":"0"},"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}})", 4));
  EXPECT_THAT([&] { read_all(path); },
              testing::ThrowsMessage<Error>(testing::HasSubstr("the header has the checksum")));
}

// The value is that of Python's xxhash 3.
TEST(Hash, IsXxh3) {
  EXPECT_EQ(hash_text(hash(std::as_bytes(std::span(std::string_view("abc"))))), "78af5f94892f3950");
}

TEST(Hash, SeesWhereItemsEnd) {
  const auto of = [](std::initializer_list<std::string_view> items) {
    HashOfItems hash;
    for (const std::string_view item : items) hash.add(item);
    return hash.value();
  };
  EXPECT_EQ(of({"ab", "c"}), of({"ab", "c"}));
  EXPECT_NE(of({"ab", "c"}), of({"a", "bc"}));
  EXPECT_NE(of({"ab"}), of({"ab", ""}));
}

TEST_F(SafetensorsTest, AFullDiskLeavesTheOldFile) {
  const std::vector<float> small{1}, large(1 << 16);
  const std::vector<TensorToWrite> first{{"a", Dtype::f32, {1}, std::as_bytes(std::span(small))}};
  const std::vector<TensorToWrite> second{{"a", Dtype::f32, {1 << 16}, std::as_bytes(std::span(large))}};
  write_safetensors(path, first);
  rlimit before{};
  getrlimit(RLIMIT_FSIZE, &before);
  std::signal(SIGXFSZ, SIG_IGN);
  const rlimit limit{1 << 16, before.rlim_max};
  setrlimit(RLIMIT_FSIZE, &limit);
  EXPECT_THAT([&] { write_safetensors(path, second); },
              testing::ThrowsMessage<Error>(testing::HasSubstr("write failed")));
  setrlimit(RLIMIT_FSIZE, &before);
  std::signal(SIGXFSZ, SIG_DFL);
  EXPECT_EQ(Safetensors(path).read<float>("a"), small);
  for (const auto& entry : std::filesystem::directory_iterator(path.parent_path()))
    EXPECT_FALSE(entry.path().string().starts_with(path.string() + ".")) << entry.path();
}

TEST_F(SafetensorsTest, AMissingFolderIsNamed) {
  EXPECT_THAT([] { write_safetensors("/nonexistent/x.safetensors", {}); },
              testing::ThrowsMessage<Error>(testing::HasSubstr("/nonexistent/x.safetensors")));
  EXPECT_THROW(Safetensors("/nonexistent/x.safetensors"), Error);
  EXPECT_THROW(Safetensors(std::filesystem::temp_directory_path()), Error);
}

}  // namespace
}  // namespace tessera::test
