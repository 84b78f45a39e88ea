#include "tessera/cpu/tokens.hpp"

#include "support/operation.hpp"

namespace tessera::test {
namespace {

template <class Scalar>
class Tokens : public testing::Test {};
TYPED_TEST_SUITE(Tokens, Scalars);

template <class Scalar, int channels, int size, int patch>
void check_patches(index images) {
  constexpr int pixels = channels * size * size, values = channels * patch * patch;
  constexpr index grid = size / patch;
  SCOPED_TRACE(fmt::format("{} images of {} x {} x {}, patches of {}", images, channels, size, size, patch));
  Random random(1, Purpose::test, 0, 0);
  const Matrix x = normal<Scalar>(random, images, pixels);
  Matrix patches(images * grid * grid, values);
  for (index image = 0; image < images; ++image)
    for (index c = 0; c < channels; ++c)
      for (index y = 0; y < size; ++y)
        for (index column = 0; column < size; ++column)
          patches((image * grid + y / patch) * grid + column / patch,
                  (c * patch + y % patch) * patch + column % patch) = x(image, (c * size + y) * size + column);
  const Values<Scalar> x_values(x);
  Values<Scalar> patch_values(patches.rows, values), back(images, pixels);
  run_operation<Scalar>(
      [&](auto& backend) {
        patchify<channels, size, patch>(backend, input<pixels>(x_values), output<values>(patch_values));
        unpatchify<channels, size, patch>(backend, input<values>(patch_values), output<pixels>(back));
      },
      patch_values, back);
  expect_close("patches", patch_values, patches, 0);
  expect_close("unpatchify(patchify(x))", back, x, 0);
}

TYPED_TEST(Tokens, PatchesHoldTheirPixelsByChannelAndRow) {
  check_patches<TypeParam, 2, 6, 2>(1);
  check_patches<TypeParam, 3, 32, 16>(20);
}

template <class Scalar, int grid_tokens, bool class_token, int width>
void check_assembly(index images, bool with_positions, bool others_wanted = true) {
  constexpr int extra = class_token ? 1 : 0, tokens = grid_tokens + extra;
  SCOPED_TRACE(fmt::format("{} images of {} + {} tokens, {} wide", images, extra, grid_tokens, width));
  Random random(1, Purpose::test, 0, 0);
  const Matrix embedded = normal<Scalar>(random, images * grid_tokens, width),
               dy = normal<Scalar>(random, images * tokens, width);
  const Matrix first = class_token ? normal<Scalar>(random, 1, width) : Matrix();
  const Matrix positions = with_positions ? normal(random, tokens, width) : Matrix();
  Matrix y(images * tokens, width), d_embedded(images * grid_tokens, width), d_positions(tokens, width), d_first;
  if (class_token) d_first = Matrix(1, width);
  for (index image = 0; image < images; ++image)
    for (index token = 0; token < tokens; ++token)
      for (index c = 0; c < width; ++c) {
        const index row = image * tokens + token, from = image * grid_tokens + token - extra;
        y(row, c) = (token < extra ? first(0, c) : embedded(from, c)) + (with_positions ? positions(token, c) : 0);
        (token < extra ? d_first(0, c) : d_embedded(from, c)) += dy(row, c);
        d_positions(token, c) += dy(row, c);
      }

  const Values<Scalar> embedded_values(embedded), dy_values(dy);
  const Sums<Scalar> first_values(first), position_values(positions);
  Values<Scalar> y_values(y.rows, width), d_embedded_values(others_wanted ? d_embedded.rows : 0, width);
  Sums<Scalar> d_first_values(others_wanted ? d_first.rows : 0, width), d_position_values(positions.rows, width);
  run_operation<Scalar>(
      [&](auto& backend) {
        assemble_tokens<grid_tokens, tokens>(backend, input<width>(embedded_values), first_values.data(),
                                             position_values.data(), output<width>(y_values));
        assemble_tokens_backward<grid_tokens, tokens>(backend, input<width>(dy_values),
                                                      output<width>(d_embedded_values), d_first_values.data(),
                                                      d_position_values.data());
      },
      y_values, d_embedded_values, d_first_values, d_position_values);
  expect_close("y", y_values, y, with_positions ? rounding<Scalar> : 0);
  if (others_wanted) expect_close("d_embedded", d_embedded_values, d_embedded, 0);
  if (others_wanted && class_token) expect_close("d_class_token", d_first_values, d_first);
  if (with_positions) expect_close("d_positions", d_position_values, d_positions);
}

TYPED_TEST(Tokens, AssembleAddsClassTokenAndPositions) {
  check_assembly<TypeParam, 1, true, 1>(1, true);
  check_assembly<TypeParam, 4, true, 37>(3, false);
  check_assembly<TypeParam, 4, true, 37>(3, true, false);
  check_assembly<TypeParam, 4, false, 37>(3, true);
  check_assembly<TypeParam, 4, false, 37>(1, false);
  check_assembly<TypeParam, 49, true, 130>(5, true);
}

template <class Scalar, int tokens, int width, int skipped = 0>
void check_pooling(index images, index taken) {
  SCOPED_TRACE(fmt::format("{} images of {} tokens, {} wide", images, tokens, width));
  Random random(1, Purpose::test, 0, 0);
  const Matrix x = normal<Scalar>(random, images * tokens, width), dy = normal<Scalar>(random, images, width);
  Matrix token(images, width), mean(images, width), d_token(x.rows, width), d_mean(x.rows, width);
  for (index row = 0; row < x.rows; ++row)
    for (index c = 0; c < width; ++c) {
      const index image = row / tokens;
      if (row % tokens >= skipped) {
        mean(image, c) += x(row, c) / (tokens - skipped);
        d_mean(row, c) = dy(image, c) / (tokens - skipped);
      }
      if (row % tokens != taken) continue;
      token(image, c) = x(row, c);
      d_token(row, c) = dy(image, c);
    }
  const Values<Scalar> x_values(x), dy_values(dy);
  Values<Scalar> token_values(images, width), mean_values(images, width), d_token_values(x.rows, width),
      d_mean_values(x.rows, width);
  run_operation<Scalar>(
      [&](auto& backend) {
        take_token<tokens>(backend, input<width>(x_values), taken, output<width>(token_values));
        take_token_backward<tokens>(backend, input<width>(dy_values), taken, output<width>(d_token_values));
        mean_tokens<tokens, skipped>(backend, input<width>(x_values), output<width>(mean_values));
        mean_tokens_backward<tokens, skipped>(backend, input<width>(dy_values), output<width>(d_mean_values));
      },
      token_values, mean_values, d_token_values, d_mean_values);
  expect_close("token", token_values, token, 0);
  expect_close("d_x of the token", d_token_values, d_token, 0);
  expect_close("mean", mean_values, mean);
  expect_close("d_x of the mean", d_mean_values, d_mean);
}

TYPED_TEST(Tokens, PoolingTakesOneTokenOrTheMean) {
  check_pooling<TypeParam, 1, 1>(1, 0);
  check_pooling<TypeParam, 5, 37>(70, 0);
  check_pooling<TypeParam, 50, 16>(12, 49);
  check_pooling<TypeParam, 5, 37, 1>(3, 0);
  check_pooling<TypeParam, 50, 16, 1>(2, 3);
}

}  // namespace
}  // namespace tessera::test
