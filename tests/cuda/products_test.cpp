#include "tessera/cuda/products.hpp"

#include <gmock/gmock.h>

#include "cuda/operation.hpp"
#include "tessera/cuda/linear.hpp"

namespace tessera::test {
namespace {

using testing::HasSubstr;
using testing::ThrowsMessage;

class DeviceProducts : public DeviceTest<bf16> {
 protected:
  void SetUp() override {
    DeviceTest<bf16>::SetUp();
    cuda::detail::ChoiceTable::of_device(0).clear();
  }
  void TearDown() override {
    cuda::detail::ChoiceTable::of_device(0).clear();
#if defined(TESSERA_EMULATION)
    emulation::machine = {};
#endif
  }
};

// A backend with a product of its own, whose sums show the order in which they were made.
class OneProduct {
 public:
  static constexpr int depth = 301, columns = 8, rows = 16;

  OneProduct() {
    multiply();
    backend.arena().commit();
  }
  void choose() {
    backend.choose_products([&] { multiply(); });
  }
  std::vector<float> result() {
    y.restore();
    multiply();
    backend.wait();
    return y.all();
  }
  void multiply() {
    cuda::multiply(backend, cuda::Product<bf16, float>{.rows = rows,
                                                       .columns = columns,
                                                       .depth = depth,
                                                       .left = x.data(),
                                                       .left_transposed = true,
                                                       .right = w.data(),
                                                       .right_transposed = false,
                                                       .result = y.data()});
  }

  cuda::Backend<bf16> backend;
  Random random{5, Purpose::test, 0, 0};
  DeviceValues<bf16> x{normal(random, depth, rows)}, w{normal(random, depth, columns)};
  DeviceValues<float> y{rows, columns};
};

TEST_F(DeviceProducts, BackendsOfAProcessChooseAlike) {
  OneProduct first;
  first.choose();
  const auto expected = first.result();
  for (int i = 0; i < 4; ++i) {
    OneProduct other;
    other.choose();
    EXPECT_EQ(other.result(), expected);
  }
}

TEST_F(DeviceProducts, ChoicesGoOnInAnotherProcess) {
  OneProduct first;
  first.choose();
  const auto expected = first.result();
  const std::string text = first.backend.products().choices();
  for (int i = 0; i < 4; ++i) {
    cuda::detail::ChoiceTable::of_device(0).clear();
    OneProduct other;
    other.backend.products().add_choices(text, "file");
    other.choose();
    EXPECT_EQ(other.backend.products().choices(), text);
    EXPECT_EQ(other.result(), expected);
    EXPECT_EQ(other.backend.products().forgotten_choices(), 0);
  }
}

TEST_F(DeviceProducts, AChoiceThatIsNotProposedIsMeasuredAnew) {
  OneProduct first, second;
  first.choose();
  cuda::ProductChoices choices = cuda::detail::ChoiceTable::of_device(0).all();
  ASSERT_EQ(choices.size(), 1u);
  for (std::uint64_t& word : choices.begin()->second) word = 0x7777777777777777u;
  cuda::detail::ChoiceTable::of_device(0).clear();
  cuda::detail::ChoiceTable::of_device(0).keep(choices);
  second.choose();
  EXPECT_EQ(second.backend.products().forgotten_choices(), 1);
  EXPECT_NE(cuda::detail::ChoiceTable::of_device(0).all(), choices);
  second.result();
}

TEST(ProductChoices, AreReadAsTheyWereWritten) {
  const cuda::ProductPlace place{130100, "NVIDIA H100 80GB HBM3"};
  cuda::ProductChoices choices;
  choices[{512, 768, 3072, false, true, true, false, false, true, true, 256, 256, 16, 2}] = {1, ~0ull, 0, 7,
                                                                                             0, 0,     0, 9};
  choices[{1, 1, index{1} << 40, true, false, false, true, false, false, false, 1, 1, 1, 1}] = {};
  const std::string text = to_text(choices, place);
  EXPECT_EQ(cuda::product_choices_from(text, place, "file"), choices);

  const auto refused = [&](std::string wrong, const char* why) {
    EXPECT_THAT([&] { static_cast<void>(cuda::product_choices_from(wrong, place, "file")); },
                ThrowsMessage<Error>(testing::AllOf(testing::StartsWith("file: "), HasSubstr(why))));
  };
  const auto with = [&](const std::string& part, const std::string& other) {
    std::string changed = text;
    const std::size_t at = changed.find(part);
    EXPECT_NE(at, std::string::npos) << part;
    return changed.replace(at, part.size(), other);
  };
  refused("", "is not a file of algorithms");
  refused(with("products-1", "products-2"), "is not a file of algorithms");
  refused(with("device", "card"), "does not say for which");
  refused(with("130100", "130200"), "version '130200' of cuBLASLt, but this is 130100");
  refused(with("H100", "H200"), "'NVIDIA H200 80GB HBM3', but this is 'NVIDIA H100 80GB HBM3'");
  refused(text.substr(0, text.size() - 1), "line 5 ");
  refused(with("512 768", "512 -8"), "line 5 ");
  refused(with("512 768", "512 99999999999999999999"), "line 5 ");
  refused(with("512 768", "512  768"), "line 5 ");
  refused(with(" 16 2 ", " 512 2 "), "line 5 ");
  refused(with("ffffffffffffffff", "1ffffffffffffffff"), "line 5 ");
  refused(text + text.substr(text.find("512")), "line 6 ");
}

#if defined(TESSERA_EMULATION)

TEST_F(DeviceProducts, AlgorithmsDiffer) {
  std::set<std::vector<float>> results;
  for (unsigned seed = 1; seed < 20; ++seed) {
    cuda::detail::ChoiceTable::of_device(0).clear();
    emulation::machine.times = seed;
    OneProduct one;
    one.choose();
    results.insert(one.result());
  }
  EXPECT_EQ(results.size(), 3u) << "each choice must show in the results";
}

// forwards is 0, backwards 1, halves 2: tests/cuda/emulation/cublas.cpp.
TEST_F(DeviceProducts, AlgorithmsThatFailArePassedOver) {
  for (unsigned* const broken : {&emulation::machine.failing, &emulation::machine.unavailable})
    for (const unsigned which : {0b001u, 0b011u, 0b101u, 0b110u}) {
      emulation::machine.failing = emulation::machine.unavailable = 0;
      *broken = which;
      cuda::detail::ChoiceTable::of_device(0).clear();
      OneProduct plain, chosen;
      const auto expected = plain.result();
      EXPECT_NO_THROW(chosen.choose());
      EXPECT_NO_THROW(static_cast<void>(chosen.result()));
      if (which != 0b001u) {
        EXPECT_EQ(chosen.result(), expected) << "one is left";
      }
    }
}

TEST_F(DeviceProducts, WithoutAnAlgorithmThatRunsThereIsAnError) {
  emulation::machine.failing = 0b111;
  OneProduct one;
  EXPECT_THAT([&] { one.choose(); },
              ThrowsMessage<Error>(HasSubstr("no algorithm that runs for the product (16 x 301) (301 x 8) in bf16: ")));
  EXPECT_THAT([&] { one.result(); }, ThrowsMessage<Error>(HasSubstr("no algorithm that runs")));
}

TEST_F(DeviceProducts, AChosenAlgorithmThatFailsLaterIsPassedOver) {
  OneProduct first, second;
  first.choose();
  const std::uint64_t chosen = cuda::detail::ChoiceTable::of_device(0).all().begin()->second[0];
  emulation::machine.failing = 1u << chosen;
  EXPECT_NO_THROW(second.choose());
  EXPECT_EQ(second.backend.products().forgotten_choices(), 1);
  EXPECT_NE(cuda::detail::ChoiceTable::of_device(0).all().begin()->second[0], chosen);
}

TEST_F(DeviceProducts, NothingIsLoadedWithinARecording) {
  for (const int algorithms : {1, 3}) {
    emulation::machine.algorithms = algorithms;
    for (int again = 0; again < 2; ++again) {
      OneProduct one;
      one.choose();
      cuda::Recording recording;
      one.backend.replay(recording, [&] { one.multiply(); });
      one.backend.wait();
    }
    cuda::detail::ChoiceTable::of_device(0).clear();
  }
  EXPECT_EQ(emulation::machine.loads_in_capture, 0);
}

TEST_F(DeviceProducts, SumsAreMadeInFloat) {
  OneProduct one;
  one.choose();
  one.result();
  EXPECT_EQ(emulation::machine.low_sums, 0);
}

#endif

}  // namespace
}  // namespace tessera::test
