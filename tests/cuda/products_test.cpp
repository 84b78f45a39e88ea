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

// A product of 24 x 40 and 40 x 16 by calls of cuBLASLt, of which one thing may be wrong.
struct RawProduct {
  static constexpr std::size_t room = 8192;
  cudaDataType_t type_a = CUDA_R_16BF, type_b = CUDA_R_16BF, type_d = CUDA_R_32F, bias_type = CUDA_R_32F;
  cublasLtEpilogue_t epilogue = CUBLASLT_EPILOGUE_BIAS;
  std::uint32_t alignment = 256;
  index offset_a = 0, offset_d = 0, offset_bias = 0;  // bytes
  index depth_b = 40;
  index result_at = 2 * room, workspace_at = 8 * room;
  cuda::Buffer<std::byte> memory{9 * room};

  cublasStatus_t run() {
    cublasLtHandle_t handle = nullptr;
    cublasLtMatmulDesc_t description = nullptr;
    cublasLtMatmulPreference_t preference = nullptr;
    cublasLtCreate(&handle);
    cublasLtMatmulDescCreate(&description, CUBLAS_COMPUTE_32F, CUDA_R_32F);
    cublasLtMatmulPreferenceCreate(&preference);
    const cuda::Owned<cublasLtHandle_t, cublasLtDestroy> owned(handle);
    const cuda::Owned<cublasLtMatmulDesc_t, cublasLtMatmulDescDestroy> owned_description(description);
    const cuda::Owned<cublasLtMatmulPreference_t, cublasLtMatmulPreferenceDestroy> owned_preference(preference);
    const cuda::detail::Layout a(type_a, 40, 24), b(type_b, 16, depth_b), d(type_d, 16, 24);
    cublasLtMatmulDescSetAttribute(description, CUBLASLT_MATMUL_DESC_EPILOGUE, &epilogue, sizeof epilogue);
    cublasLtMatmulDescSetAttribute(description, CUBLASLT_MATMUL_DESC_BIAS_DATA_TYPE, &bias_type, sizeof bias_type);
    const std::size_t workspace = room;
    cublasLtMatmulPreferenceSetAttribute(preference, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, &workspace,
                                         sizeof workspace);
    for (const auto attribute :
         {CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES,
          CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES})
      cublasLtMatmulPreferenceSetAttribute(preference, attribute, &alignment, sizeof alignment);
    cublasLtMatmulHeuristicResult_t result{};
    int found = 0;
    const cublasStatus_t status = cublasLtMatmulAlgoGetHeuristic(handle, description, a.get(), b.get(), d.get(),
                                                                 d.get(), preference, 1, &result, &found);
    if (status != CUBLAS_STATUS_SUCCESS) return status;
    std::byte* const data = memory.data();
    void* const bias = data + 7 * room + offset_bias;
    cublasLtMatmulDescSetAttribute(description, CUBLASLT_MATMUL_DESC_BIAS_POINTER, &bias, sizeof bias);
    const float one = 1, none = 0;
    return cublasLtMatmul(handle, description, &one, data + offset_a, a.get(), data + room, b.get(), &none,
                          data + result_at + offset_d, d.get(), data + result_at + offset_d, d.get(), &result.algo,
                          data + workspace_at, workspace, nullptr);
  }
};

// Each line is a rule of cublasLt.h that the emulated cuBLASLt holds the library to.
TEST_F(DeviceProducts, TheEmulatedCublasIsStrict) {
  const auto run = [](auto&& change) {
    RawProduct product;
    change(product);
    const cublasStatus_t status = product.run();
    cuda::check(cudaDeviceSynchronize(), "cudaDeviceSynchronize");
    return status;
  };
  constexpr auto good = CUBLAS_STATUS_SUCCESS, not_supported = CUBLAS_STATUS_NOT_SUPPORTED,
                 invalid = CUBLAS_STATUS_INVALID_VALUE;
  EXPECT_EQ(run([](RawProduct&) {}), good);
  EXPECT_EQ(run([](RawProduct& p) { p.epilogue = CUBLASLT_EPILOGUE_BGRADB; }), good);
  EXPECT_EQ(run([](RawProduct& p) { p.type_d = p.bias_type = CUDA_R_16BF; }), good);
  EXPECT_EQ(run([](RawProduct& p) { p.bias_type = CUDA_R_16BF; }), not_supported);
  EXPECT_EQ(run([](RawProduct& p) { p.type_d = CUDA_R_16BF; }), not_supported);
  EXPECT_EQ(run([](RawProduct& p) { p.type_b = CUDA_R_32F; }), not_supported);
  EXPECT_EQ(run([](RawProduct& p) { p.type_a = p.type_b = CUDA_R_32F, p.type_d = p.bias_type = CUDA_R_16BF; }),
            not_supported);
  EXPECT_EQ(run([](RawProduct& p) { p.epilogue = CUBLASLT_EPILOGUE_DRELU_BGRAD; }), not_supported);
  EXPECT_EQ(run([](RawProduct& p) { p.depth_b = 39; }), invalid);
  EXPECT_EQ(run([](RawProduct& p) { p.offset_a = 128; }), invalid);
  EXPECT_EQ(run([](RawProduct& p) { p.offset_d = 128; }), invalid);
  EXPECT_EQ(run([](RawProduct& p) { p.alignment = 128, p.offset_a = p.offset_d = 128; }), good);
  EXPECT_EQ(run([](RawProduct& p) { p.offset_bias = 8; }), invalid);
  EXPECT_EQ(run([](RawProduct& p) { p.result_at = 9 * RawProduct::room - 256; }), invalid) << "its end is missing";
  EXPECT_EQ(run([](RawProduct& p) { p.result_at = 8 * RawProduct::room; }), invalid) << "within the workspace";
  EXPECT_EQ(run([](RawProduct& p) { p.result_at = RawProduct::room; }), invalid) << "within an operand";
  EXPECT_EQ(run([](RawProduct& p) { p.workspace_at = 8 * RawProduct::room + 256; }), invalid) << "its end is missing";
}

TEST_F(DeviceProducts, NothingOfTheWorkspaceIsLeft) {
  RawProduct product;
  ASSERT_EQ(product.run(), CUBLAS_STATUS_SUCCESS);
  std::vector<unsigned char> after(RawProduct::room);
  cuda::check(
      cudaMemcpy(after.data(), product.memory.data() + product.workspace_at, after.size(), cudaMemcpyDeviceToHost),
      "cudaMemcpy");
  EXPECT_EQ(after, std::vector<unsigned char>(RawProduct::room, 0xFF));
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
