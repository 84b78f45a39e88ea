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

// A file of a fixture: "images" (JPEG, PNG) or "images_more" (other formats, and Exif in PNG).
[[nodiscard]] std::string file(const std::string& name, const std::string& fixture = "images") {
  return io::read_file(test_data() + "/fixtures/" + fixture + "/" + name, 1 << 20);
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

const Fixture& expected(const std::string& fixture = "images") {
  static const Fixture images("images"), more("images_more");
  return fixture == "images" ? images : more;
}
void expect_pixels(const Decoded& decoded, const std::string& key, const std::string& fixture = "images") {
  EXPECT_EQ(decoded.problem, "");
  EXPECT_EQ(decoded.shape, expected(fixture).tensor(key).shape);
  EXPECT_EQ(decoded.pixels, expected(fixture).values<std::uint8_t>(key));
}

struct Counts {
  int good = 0, refused = 0;
};
// Every file of a fixture gives Pillow's pixels, or is refused with its name, or is damaged in a way that decoders
// treat differently.
Counts expect_all(const std::string& fixture) {
  std::ifstream list(test_data() + "/fixtures/" + fixture + ".json");
  const nlohmann::json files = nlohmann::json::parse(list);
  Counts counts;
  for (const auto& [name, about] : files.items()) {
    SCOPED_TRACE(name);
    const Decoded as_stored = decoded(file(name, fixture), name);
    const std::string expect = about.at("expect");
    if (expect == "pixels") {
      expect_pixels(as_stored, expected(fixture).contains(name + ".high") ? name + ".high" : name, fixture);
      ++counts.good;
    } else if (expect == "refuse") {
      EXPECT_THAT(as_stored.problem, testing::StartsWith(name + ": "));
      ++counts.refused;
    } else if (!as_stored.problem.empty()) {
      EXPECT_THAT(as_stored.problem, testing::StartsWith(name + ": "));
    }
  }
  return counts;
}

TEST(Picture, IsPillows) {
  const Counts counts = expect_all("images");
  EXPECT_GT(counts.good, 40);
  EXPECT_GT(counts.refused, 15);
}

#if TESSERA_HAS_WEBP && TESSERA_HAS_TIFF
TEST(Picture, OfOtherFormatsIsPillows) {
  const Counts counts = expect_all("images_more");
  EXPECT_GT(counts.good, 100);
  EXPECT_GT(counts.refused, 55);
}
#endif

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

// Exif in PNG and WebP, and the orientation of TIFF, which is always applied.
TEST(Picture, OfOtherFormatsIsTurnedUpright) {
  std::vector<std::string> names{"exif_1.png", "exif_3.png", "exif_5.png",
                                 "exif_6.png", "exif_8.png", "exif_behind.png"};
#if TESSERA_HAS_WEBP
  names.insert(names.end(), {"exif_6.webp", "exif_7.webp"});
#endif
#if TESSERA_HAS_TIFF
  for (int orientation = 1; orientation <= 8; ++orientation)
    names.push_back(fmt::format("orientation_{}.tiff", orientation));
#endif
  for (const std::string& name : names) {
    SCOPED_TRACE(name);
    const bool turned = expected("images_more").contains(name + ".upright");
    EXPECT_EQ(turned, name != "exif_1.png" && !name.ends_with(".tiff"));
    expect_pixels(decoded(file(name, "images_more"), name, data::Orientation::upright),
                  turned ? name + ".upright" : name, "images_more");
  }
}

// Whatever is cut off or changed: pixels or a sentence, in little time and memory. `spare` bytes at the end are not
// needed for pixels.
void expect_survival(const std::string& name, const std::string& fixture, std::size_t spare) {
  SCOPED_TRACE(name);
  const std::string whole = file(name, fixture);
  for (std::size_t length = 0; length < whole.size(); length += 3) {
    const Decoded cut = decoded(whole.substr(0, length), name, data::Orientation::upright);
    if (length + spare < whole.size()) {
      EXPECT_NE(cut.problem, "") << length << " bytes";
    }
  }
  for (std::size_t at = 0; at < whole.size(); ++at) {
    std::string changed = whole;
    changed[at] = static_cast<char>(changed[at] ^ (1 << at % 8));
    static_cast<void>(decoded(changed, name, data::Orientation::upright));
  }
}
TEST(Picture, SurvivesDamage) {
  for (const char* name : {"progressive_420.jpg", "cmyk.jpg", "exif_6.jpg", "palette_alpha.png", "rgb8_interlaced.png"})
    expect_survival(name, "images", 12);
}
TEST(Picture, OfOtherFormatsSurvivesDamage) {
  for (const char* name : {"bits_plain.pbm", "grey_1023.pgm", "rgb_plain.ppm", "bits_4.bmp", "runs_8.bmp", "runs_4.bmp",
                           "fields_565.bmp", "exif_8.png"})
    expect_survival(name, "images_more", 12);
#if TESSERA_HAS_WEBP
  expect_survival("lossy.webp", "images_more", 12);
  expect_survival("lossless_alpha.webp", "images_more", 12);
#endif
#if TESSERA_HAS_TIFF
  for (const char* name : {"lzw.tiff", "group4.tiff", "orientation_6.tiff", "planes_tiles.tiff", "palette_4.tiff"})
    expect_survival(name, "images_more", 200);
#endif
}

TEST(Picture, OfAnotherKindIsRefused) {
  const char* const rest = ": is no JPEG, PNG, BMP, PBM, PGM, PPM, WebP or TIFF file";
  EXPECT_EQ(decoded("GIF89a", "a.gif").problem, std::string("a.gif") + rest);
  EXPECT_EQ(decoded("", "empty").problem, std::string("empty") + rest);
  EXPECT_EQ(decoded("P7\nWIDTH 1\n", "a.pam").problem, std::string("a.pam") + rest);
}

// A build without a library names it.
TEST(Picture, NeedsALibrary) {
#if !TESSERA_HAS_WEBP
  EXPECT_EQ(decoded(file("lossy.webp", "images_more"), "a").problem,
            "a: is a WebP file, and this program was built without libwebp; install it and build again");
#endif
#if !TESSERA_HAS_TIFF
  EXPECT_EQ(decoded(file("lzw.tiff", "images_more"), "a").problem,
            "a: is a TIFF file, and this program was built without libtiff 4.5; install it and build again");
#endif
}

}  // namespace
}  // namespace tessera::test
