#include "tessera/data/picture.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <zlib.h>

#include <fstream>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "support/fixture.hpp"
#include "tessera/io/file.hpp"

namespace tessera::test {
namespace {

using data::Image;

[[nodiscard]] std::string file(const std::string& name) {
  return io::read_file(test_data() + "/fixtures/images/" + name, 1 << 20);
}

// The RGB pixels of a file, or what is wrong with it.
struct Decoded {
  std::vector<std::uint8_t> pixels;
  std::vector<long> shape;
  std::string problem;
};
[[nodiscard]] Decoded decoded(const std::string& content, const std::string& name,
                              data::Orientation orientation = data::Orientation::as_stored) {
  Decoded decoded;
  Image image;
  try {
    data::decode_picture(std::as_bytes(std::span(content)), name, image, orientation);
  } catch (const Error& problem) {
    decoded.problem = problem.what();
    return decoded;
  }
  for (std::size_t p = 0; p < image.pixels.size() / static_cast<std::size_t>(image.channels); ++p)
    for (int c = 0; c < 3; ++c)
      decoded.pixels.push_back(image.pixels[p * static_cast<std::size_t>(image.channels) +
                                            static_cast<std::size_t>(image.channels == 1 ? 0 : c)]);
  decoded.shape = {image.height, image.width, 3};
  return decoded;
}

const Fixture& expected() {
  static const Fixture fixture("images");
  return fixture;
}
void expect_pixels(const Decoded& decoded, const std::string& key) {
  EXPECT_EQ(decoded.problem, "");
  EXPECT_EQ(decoded.shape, expected().tensor(key).shape);
  EXPECT_EQ(decoded.pixels, expected().values<std::uint8_t>(key));
}

// Every file of the fixture gives Pillow's pixels, or is refused with its name, or is damaged in a way that decoders
// treat differently.
TEST(Picture, IsPillows) {
  std::ifstream list(test_data() + "/fixtures/images.json");
  const nlohmann::json files = nlohmann::json::parse(list);
  int good = 0, refused = 0;
  for (const auto& [name, about] : files.items()) {
    SCOPED_TRACE(name);
    const Decoded as_stored = decoded(file(name), name);
    const std::string expect = about.at("expect");
    if (expect == "pixels") {
      expect_pixels(as_stored, expected().contains(name + ".high") ? name + ".high" : name);
      ++good;
    } else if (expect == "refuse") {
      EXPECT_THAT(as_stored.problem, testing::StartsWith(name + ": "));
      ++refused;
    } else if (!as_stored.problem.empty()) {
      EXPECT_THAT(as_stored.problem, testing::StartsWith(name + ": "));
    }
  }
  EXPECT_GT(good, 40);
  EXPECT_GT(refused, 15);
}

TEST(Picture, IsTurnedUpright) {
  for (int orientation = 1; orientation <= 8; ++orientation) {
    const std::string name = fmt::format("exif_{}.jpg", orientation);
    SCOPED_TRACE(name);
    expect_pixels(decoded(file(name), name, data::Orientation::upright), orientation == 1 ? name : name + ".upright");
  }
}

// A header alone does not make the decoder take memory.
TEST(Picture, IsRefusedIfTheFileIsTooShortForItsSize) {
  std::string jpeg = file("progressive_420.jpg");
  const std::size_t frame = jpeg.find("\xff\xc2");
  ASSERT_NE(frame, std::string::npos);
  jpeg.replace(frame + 5, 4, std::string("\x2e\xe0\x2e\xe0"));  // 12,000 x 12,000
  EXPECT_THAT(decoded(jpeg, "a.jpg").problem, testing::HasSubstr("a.jpg: is truncated: "));
  std::string png = file("rgb8.png");
  png.replace(16, 8, std::string("\0\0\x2e\xe0\0\0\x2e\xe0", 8));
  const auto check = crc32(0, reinterpret_cast<const Bytef*>(png.data()) + 12, 17);
  for (std::size_t byte = 0; byte < 4; ++byte) png[29 + byte] = static_cast<char>(check >> (24 - 8 * byte));
  EXPECT_THAT(decoded(png, "a.png").problem, testing::HasSubstr("a.png: is truncated: "));
}

// Whatever is cut off or changed: pixels or a sentence, in little time and memory.
TEST(Picture, SurvivesDamage) {
  for (const char* name :
       {"progressive_420.jpg", "cmyk.jpg", "exif_6.jpg", "palette_alpha.png", "rgb8_interlaced.png"}) {
    const std::string whole = file(name);
    for (std::size_t length = 0; length < whole.size(); length += 3) {
      const Decoded cut = decoded(whole.substr(0, length), name, data::Orientation::upright);
      if (length + 12 < whole.size()) {
        EXPECT_NE(cut.problem, "") << name << ", " << length << " bytes";
      }
    }
    for (std::size_t at = 0; at < whole.size(); ++at) {
      std::string changed = whole;
      changed[at] = static_cast<char>(changed[at] ^ (1 << at % 8));
      static_cast<void>(decoded(changed, name, data::Orientation::upright));
    }
  }
}

TEST(Picture, OfAnotherKindIsRefused) {
  EXPECT_EQ(decoded("GIF89a", "a.gif").problem, "a.gif: is neither a JPEG nor a PNG file");
  EXPECT_EQ(decoded("", "empty").problem, "empty: is neither a JPEG nor a PNG file");
}

}  // namespace
}  // namespace tessera::test
