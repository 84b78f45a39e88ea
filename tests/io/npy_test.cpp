#include "tessera/io/npy.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <string>
#include <vector>

namespace tessera::test {
namespace {

class Npy : public testing::Test {
 protected:
  ~Npy() override { std::filesystem::remove(path); }

  void write_bytes(const std::string& bytes) const { std::ofstream(path, std::ios::binary) << bytes; }
  // A file of version 1.0 with this header and these values.
  void write(const std::string& header, const std::string& values) const {
    std::string length(2, '\0');
    length[0] = static_cast<char>(header.size() % 256);
    length[1] = static_cast<char>(header.size() / 256);
    write_bytes(std::string("\x93NUMPY\x01\x00", 8) + length + header + values);
  }
  // The same of version 2.0, whose header has a length of 4 bytes.
  void write_second(const std::string& header, const std::string& values) const {
    std::string length;
    for (std::size_t shift = 0; shift < 32; shift += 8) length += static_cast<char>(header.size() >> shift);
    write_bytes(std::string("\x93NUMPY\x02\x00", 8) + length + header + values);
  }
  void write_shape(const std::string& shape, const std::string& values) const {
    write("{'descr': '<f4', 'fortran_order': False, 'shape': " + shape + ", }\n", values);
  }
  void expect_refused(const std::string& sentence) const {
    EXPECT_THAT(
        [&] { static_cast<void>(io::read_npy<float>(path)); },
        testing::ThrowsMessage<Error>(testing::AllOf(testing::HasSubstr(path.string()), testing::HasSubstr(sentence))));
  }

  const std::filesystem::path path =
      std::filesystem::temp_directory_path() / ("tessera_" + std::to_string(::getpid()) + ".npy");
};

template <class Scalar>
void expect_round_trip(const std::filesystem::path& path) {
  xt::xarray<Scalar> values = xt::xarray<Scalar>::from_shape({2, 1, 3});
  for (std::size_t i = 0; i < values.size(); ++i) values.data()[i] = static_cast<Scalar>(i);
  io::write_npy(path, values);
  EXPECT_EQ(io::read_npy<Scalar>(path), values);
}

TEST_F(Npy, ReadsWhatItWrote) {
  expect_round_trip<float>(path);
  expect_round_trip<double>(path);
  expect_round_trip<int>(path);
  expect_round_trip<std::uint8_t>(path);
  expect_round_trip<long>(path);
  const std::vector<float> values{1, 2, 3, 4, 5, 6};
  io::write_npy(path, values.data(), 2, 3);
  const auto read = io::read_npy<float>(path);
  ASSERT_EQ(read.dimension(), 2u);
  EXPECT_EQ(read.shape(0), 2u);
  EXPECT_EQ(read(1, 2), 6);
}

TEST_F(Npy, ReadsEveryShape) {
  const auto shape_of = [&](const std::string& shape, const std::string& values) {
    write_shape(shape, values);
    const auto read = io::read_npy<float>(path);
    return std::vector<std::size_t>(read.shape().begin(), read.shape().end());
  };
  using Shape = std::vector<std::size_t>;
  EXPECT_EQ(shape_of("()", "1234"), Shape{});
  EXPECT_EQ(shape_of("(1,)", "1234"), Shape{1});
  EXPECT_EQ(shape_of("(2, 1, 1)", "12345678"), (Shape{2, 1, 1}));
  EXPECT_EQ(shape_of("(0, 384)", ""), (Shape{0, 384}));
}

TEST_F(Npy, ReadsVersion2) {
  const std::string header = "{'descr': '|u1', 'fortran_order': False, 'shape': (2, 2), }", blanks(60000, ' ');
  for (const std::string& padded : {header + "\n", header + blanks + "\n"}) {
    write_second(padded, "abcd");
    EXPECT_EQ(io::read_npy<std::uint8_t>(path), (xt::xarray<std::uint8_t>{{'a', 'b'}, {'c', 'd'}}));
  }
  write_second(header + "\n", "abcde");
  EXPECT_THROW(static_cast<void>(io::read_npy<std::uint8_t>(path)), Error);
  const std::string whole = io::read_file(path, 1000);
  for (std::size_t size = 0; size + 1 < whole.size(); ++size) {
    write_bytes(whole.substr(0, size));
    EXPECT_THROW(static_cast<void>(io::read_npy<std::uint8_t>(path)), Error) << size;
  }
}

TEST_F(Npy, RefusesHeadersThatAreNotTheFiles) {
  write_bytes(std::string("\x93NUMPY\x02\x00\xff\xff\xff\xff{'descr'", 20));
  expect_refused("states a header of 4294967295 bytes; 8 bytes follow");
  write_bytes(std::string("\x93NUMPY\x01\x00\x09\x00{'descr'", 18));
  expect_refused("states a header of 9 bytes; 8 bytes follow");
  write_second(std::string((1 << 16) + 1, ' '), "");
  expect_refused("at most 65536 are read");
  write_bytes(std::string("\x93NUMPY\x03\x00\x09\x00\x00\x00{'descr'", 20));
  expect_refused("version 1.0 or 2.0");
}

TEST_F(Npy, ReadsIntegersOfAnyType) {
  const auto read = [&](auto value) {
    const xt::xarray<decltype(value)> values{0, 1, value};
    io::write_npy(path, values);
    return io::read_npy_integers<int>(path)(2);
  };
  EXPECT_EQ(read(std::int8_t{-100}), -100);
  EXPECT_EQ(read(std::int16_t{-30000}), -30000);
  EXPECT_EQ(read(std::int32_t{-2000000000}), -2000000000);
  EXPECT_EQ(read(std::int64_t{-5}), -5);
  EXPECT_EQ(read(std::uint8_t{200}), 200);
  EXPECT_EQ(read(std::uint16_t{60000}), 60000);
  EXPECT_EQ(read(std::uint32_t{5}), 5);
  EXPECT_EQ(read(std::uint64_t{7}), 7);
  const auto expect_no_integers = [&](auto value, const std::string& sentence) {
    EXPECT_THAT([&] { read(value); }, testing::ThrowsMessage<Error>(testing::AllOf(testing::HasSubstr(path.string()),
                                                                                   testing::HasSubstr(sentence))));
  };
  expect_no_integers(std::int64_t{1} << 31, "the value 2147483648, which is no integer of 32 bits");
  expect_no_integers(std::uint32_t{4294967295u}, "the value 4294967295");
  expect_no_integers(1.0f, "'<f4'");
}

TEST_F(Npy, RefusesOtherTypesAndOrders) {
  const std::vector<float> values{1, 2, 3, 4};
  io::write_npy(path, values.data(), 2, 2);
  EXPECT_THAT([&] { static_cast<void>(io::read_npy<double>(path)); },
              testing::ThrowsMessage<Error>(testing::AllOf(testing::HasSubstr("'<f8'"), testing::HasSubstr("'<f4'"))));
  EXPECT_THROW(static_cast<void>(io::read_npy<std::int32_t>(path)), Error);
  write("{'descr': '>f4', 'fortran_order': False, 'shape': (1,), }\n", "1234");
  expect_refused("'>f4'");
  write("{'descr': '<f4', 'fortran_order': True, 'shape': (1,), }\n", "1234");
  expect_refused("True");
  write("{'descr': [('a', '<f4')], 'fortran_order': False, 'shape': (1,), }\n", "1234");
  expect_refused("row-major");
}

TEST_F(Npy, RefusesShapesThatAreNotTheFiles) {
  for (const std::string shape : {"(1000000000000000,)", "(4294967296, 4294967296)", "(1000000000000000000000000,)",
                                  "(0, 4294967296, 4294967296)", "(3,)", "(1,)", "(0,)"}) {
    write_shape(shape, "12345678");
    expect_refused("");
  }
  write_shape("(2,)", "12345678 and more");
  expect_refused("holds 17 bytes");
  for (const std::string shape : {"", "(", "2", "(2", "(2,", "(-2,)", "(2.,)", "(two,)", "(1 2)", "(,2)", "(2,,)"}) {
    write_shape(shape, "12345678");
    expect_refused("its header states");
  }
  write(std::string(300, '('), "");
  expect_refused("its header states");
  write_bytes("not an array");
  expect_refused("version 1.0");
}

TEST_F(Npy, SurvivesEveryTruncation) {
  const std::vector<float> values{1, 2, 3, 4, 5, 6};
  io::write_npy(path, values.data(), 2, 3);
  const std::string whole = io::read_file(path, 1000);
  for (std::size_t size = 0; size < whole.size(); ++size) {
    write_bytes(whole.substr(0, size));
    expect_refused("");
  }
}

// A file with one wrong byte is refused, unless the byte is one of the values, or a blank of the header.
TEST_F(Npy, SurvivesEveryWrongByte) {
  const std::vector<float> values{1, 2, 3, 4, 5, 6};
  io::write_npy(path, values.data(), 2, 3);
  const std::string whole = io::read_file(path, 1000);
  const auto right = io::read_npy<float>(path);
  const std::size_t data = whole.size() - values.size() * sizeof(float);
  std::fstream file(path, std::ios::in | std::ios::out | std::ios::binary);
  const auto put = [&](std::size_t at, char value) {
    file.seekp(static_cast<std::streamoff>(at));
    file.put(value).flush();
  };
  for (std::size_t at = 0; at < whole.size(); ++at) {
    for (int value = 0; value < 256; ++value) {
      put(at, static_cast<char>(value));
      try {
        const auto read = io::read_npy<float>(path);
        ASSERT_EQ(read.shape(), right.shape()) << at << ", " << value;
        ASSERT_TRUE(at >= data || read == right) << at << ", " << value;
      } catch (const Error& error) {
        ASSERT_THAT(error.what(), testing::HasSubstr(path.string()));
        ASSERT_LT(at, data);
      }
    }
    put(at, whole[at]);
  }
}

}  // namespace
}  // namespace tessera::test
