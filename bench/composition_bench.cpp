// What composition costs: the quickstart's training step from types, and the same step written out by hand as calls of
// the backend's operations. Both must give the same loss, bit for bit.
#include <benchmark/benchmark.h>

#include <algorithm>
#include <array>
#include <deque>
#include <vector>

#include "objective.hpp"
#include "tessera/tessera.hpp"

namespace {

namespace ts = tessera;
using ts::Rows;
using Encoder = ts::vit::Tiny<ts::image<28, 1>, ts::patch<7>, ts::vit::policies<ts::embed::FrozenPatches>>;
constexpr int hidden = 512, out = 128;
using MoCo = ts::objectives::MoCoV3<Encoder, ts::heads::Mlp<3, hidden, out>, ts::heads::Mlp<2, hidden, out>>;
using Backend = ts::cpu::Backend<float>;
constexpr ts::index batch = 128;
constexpr double temperature = 0.2, momentum = 0.99;
const ts::StepSettings<MoCo> settings{1e-4, {temperature, momentum}};

std::vector<float> random_images() {
  std::vector<float> images(static_cast<std::size_t>(2 * batch * Encoder::in));
  ts::Random random(1, ts::Purpose::test, 0, 0);
  for (float& value : images) value = random.uniform(-1, 1);
  return images;
}

// The step by hand, for this model alone.
class ByHand {
  static constexpr int size = 28, patch = 7, values = patch * patch, grid_tokens = 16, tokens = 17, width = 96;
  static constexpr int mlp = 4 * width, depth = 4, heads = 3, in = size * size;
  static constexpr double layer_epsilon = 1e-6, batch_epsilon = 1e-5, batch_momentum = 0.1;
  static constexpr ts::index images = 2 * batch, all = images * tokens;
  using Gelu = ts::nn::Gelu;
  using Relu = ts::nn::Relu;
  using Average = bench::Average<MoCo>;
  using StudentLayout = bench::OnlineLayout<MoCo>;
  using TeacherLayout = bench::AverageLayout<MoCo>;
  using Student = decltype(ts::bind<MoCo::Online>(std::declval<float*>(), std::declval<float*>()));
  using Teacher = decltype(ts::bind<Average>(std::declval<float*>(), std::declval<float*>()));
  using Block = std::remove_cvref_t<decltype(std::declval<Teacher>().encoder.blocks[0])>;
  using Head = std::remove_cvref_t<decltype(std::declval<Teacher>().head)>;
  using Predictor = std::remove_cvref_t<decltype(std::declval<Student>().predictor)>;

 public:
  ByHand() {
    ts::initialize(StudentLayout::entries, 1, student_.data(), student_statistics_.data());
    std::copy_n(student_.data(), teacher_.size(), teacher_.data());
    std::copy_n(student_statistics_.data(), teacher_statistics_.size(), teacher_statistics_.data());
    step(Rows<const float, in>{nullptr, images});
    backend_.arena().commit();
  }

  double step(Rows<const float, in> x) {
    const auto p = ts::bind<MoCo::Online>(student_.data(), student_statistics_.data());
    const auto g = ts::bind<MoCo::Online>(gradient_.data(), static_cast<float*>(nullptr));
    const auto teacher = ts::bind<Average>(teacher_.data(), teacher_statistics_.data());
    encode(p.base_encoder.encoder, x, student_acts_);
    project(p.base_encoder.head, student_acts_);
    predict(p.predictor);
    moving_average(backend_, teacher_.size(), &momentum, static_cast<const float*>(student_.data()), teacher_.data());
    encode(teacher.encoder, x, teacher_acts_);
    project(teacher.head, teacher_acts_);
    const double loss = contrast();
    predict_backward(p.predictor, g.predictor);
    project_backward(p.base_encoder.head, g.base_encoder.head);
    encode_backward(p.base_encoder.encoder, g.base_encoder.encoder);
    double blocked = 0, overflow = 0;
    check_finite(backend_, gradient_.size(), static_cast<const float*>(gradient_.data()), &loss, &blocked);
    if (blocked != 0) ts::fail("a gradient is not finite");
    const auto coefficients = updater_.coefficients(settings.learning_rate, ++steps_);
    updater_.step(backend_, {StudentLayout::entries,
                             groups_,
                             {&all_, 1},
                             &coefficients,
                             &blocked,
                             &overflow,
                             gradient_.data(),
                             student_.data(),
                             moments_});
    if (overflow != 0) ts::fail("the update made a weight or a moment infinite or not a number");
    return loss;
  }

 private:
  const ts::Part all_{0, StudentLayout::parameters, 0};

  template <int columns>
  Rows<float, columns> room(ts::index rows) {
    return {rooms_.emplace_back(rows * columns).data(), rows};
  }

  struct BlockActs {
    Rows<float, width> x, normed1, mixed, middle, normed2;
    Rows<float, 2> norm1, norm2;
    Rows<float, 3 * width> qkv;
    Rows<float, tokens> log_sums;
    Rows<float, mlp> before;
  };
  struct Acts {
    std::array<BlockActs, depth> blocks;
    Rows<float, width> class_mixed, residual, last, features;
    Rows<float, 2> norm;
    Rows<float, hidden> h0, h1, h2, h3, h4, h5;
    Rows<float, out> h6, z;
    Rows<float, 2 * hidden> s1, s4;
    Rows<float, 2 * out> s7;
  };

  BlockActs block_acts(ts::index rows) {
    return {room<width>(all),  room<width>(all),     room<width>(all),
            room<width>(rows), room<width>(rows),    room<2>(all),
            room<2>(rows),     room<3 * width>(all), room<tokens>(images * heads),
            room<mlp>(rows)};
  }
  Acts acts() {
    return {{block_acts(all), block_acts(all), block_acts(all), block_acts(images)},
            room<width>(images),
            room<width>(images),
            room<width>(images),
            room<width>(images),
            room<2>(images),
            room<hidden>(images),
            room<hidden>(images),
            room<hidden>(images),
            room<hidden>(images),
            room<hidden>(images),
            room<hidden>(images),
            room<out>(images),
            room<out>(images),
            room<2 * hidden>(2),
            room<2 * hidden>(2),
            room<2 * out>(2)};
  }

  template <class Parameters>
  void encode(const Parameters& p, Rows<const float, in> x, Acts& a) {
    patchify<1, size, patch>(backend_, x, patches_);
    linear_forward(backend_, fixed(patches_), fixed(p.patch_embed.weight), fixed(p.patch_embed.bias), {}, embedded_);
    assemble_tokens<grid_tokens, tokens>(backend_, fixed(embedded_), fixed(p.cls_token), fixed(p.pos_embed),
                                         a.blocks[0].x);
    for (std::size_t i = 0; i + 1 < depth; ++i) {
      BlockActs& b = a.blocks[i];
      attend(p.blocks[i], b);
      linear_forward(backend_, fixed(b.mixed), fixed(p.blocks[i].attn.proj.weight), fixed(p.blocks[i].attn.proj.bias),
                     fixed(b.x), b.middle);
      perceive(p.blocks[i], b, activated_, a.blocks[i + 1].x);
    }
    const Block& last = p.blocks[depth - 1];
    BlockActs& b = a.blocks[depth - 1];
    attend(last, b);
    take_token<tokens>(backend_, fixed(b.x), 0, a.residual);
    take_token<tokens>(backend_, fixed(b.mixed), 0, a.class_mixed);
    linear_forward(backend_, fixed(a.class_mixed), fixed(last.attn.proj.weight), fixed(last.attn.proj.bias),
                   fixed(a.residual), b.middle);
    perceive(last, b, activated_.part(0, images), a.last);
    layer_norm_forward(backend_, fixed(a.last), fixed(p.norm.weight), fixed(p.norm.bias), layer_epsilon, a.norm,
                       a.features);
  }

  void attend(const Block& p, BlockActs& b) {
    layer_norm_forward(backend_, fixed(b.x), fixed(p.norm1.weight), fixed(p.norm1.bias), layer_epsilon, b.norm1,
                       b.normed1);
    linear_forward(backend_, fixed(b.normed1), fixed(p.attn.qkv.weight), fixed(p.attn.qkv.bias), {}, b.qkv);
    attention_forward<tokens, heads>(backend_, fixed(b.qkv), b.mixed, b.log_sums);
  }

  void perceive(const Block& p, BlockActs& b, Rows<float, mlp> activated, Rows<float, width> y) {
    layer_norm_forward(backend_, fixed(b.middle), fixed(p.norm2.weight), fixed(p.norm2.bias), layer_epsilon, b.norm2,
                       b.normed2);
    linear_activation_forward<Gelu>(backend_, fixed(b.normed2), fixed(p.mlp.fc1.weight), fixed(p.mlp.fc1.bias),
                                    b.before, activated);
    linear_forward(backend_, fixed(activated), fixed(p.mlp.fc2.weight), fixed(p.mlp.fc2.bias), fixed(b.middle), y);
  }

  template <class Norm, int columns>
  void normalize(const Norm& p, Rows<float, columns> x, Rows<float, 2 * columns> statistics, Rows<float, columns> y) {
    batch_norm_forward(context_, fixed(x), fixed(p.weight), fixed(p.bias), batch_epsilon, batch_momentum,
                       p.running_mean, p.running_var, p.num_batches_tracked, statistics, y);
  }

  void project(const Head& p, Acts& a) {
    linear_forward(backend_, fixed(a.features), fixed(std::get<0>(p).weight), null_, {}, a.h0);
    normalize(std::get<1>(p), a.h0, a.s1, a.h1);
    activation_forward<Relu>(backend_, fixed(a.h1), a.h2);
    linear_forward(backend_, fixed(a.h2), fixed(std::get<3>(p).weight), null_, {}, a.h3);
    normalize(std::get<4>(p), a.h3, a.s4, a.h4);
    activation_forward<Relu>(backend_, fixed(a.h4), a.h5);
    linear_forward(backend_, fixed(a.h5), fixed(std::get<6>(p).weight), null_, {}, a.h6);
    normalize(std::get<7>(p), a.h6, a.s7, a.z);
  }

  void predict(const Predictor& p) {
    linear_forward(backend_, fixed(student_acts_.z), fixed(std::get<0>(p).weight), null_, {}, q0_);
    normalize(std::get<1>(p), q0_, qs1_, q1_);
    activation_forward<Relu>(backend_, fixed(q1_), q2_);
    linear_forward(backend_, fixed(q2_), fixed(std::get<3>(p).weight), null_, {}, q3_);
    normalize(std::get<4>(p), q3_, qs4_, q_);
  }

  double contrast() {
    normalize_rows(backend_, fixed(q_), unit_q_, inverse_q_);
    normalize_rows(backend_, fixed(teacher_acts_.z), unit_k_, inverse_k_);
    double loss = 0;
    for (ts::index view = 0; view < 2; ++view)
      info_nce(backend_, fixed(unit_q_.part(view * batch, batch)), fixed(unit_k_.part((1 - view) * batch, batch)),
               ts::InfoNce{2, true}, &temperature, 0, batch, &loss, dq_.part(view * batch, batch));
    normalize_rows_backward(backend_, fixed(unit_q_), fixed(inverse_q_), fixed(dq_), dq_);
    return loss;
  }

  template <class Norm, int columns>
  void normalize_backward(const Norm& p, const Norm& g, Rows<float, columns> x, Rows<float, 2 * columns> statistics,
                          Rows<float, columns> dy, Rows<float, columns> dx) {
    batch_norm_backward(context_, fixed(x), fixed(p.weight), fixed(statistics), fixed(dy), {}, dx, g.weight, g.bias);
  }

  template <class Linear, int columns, int rows>
  void linear_backward(const Linear& p, const Linear& g, Rows<float, columns> x, Rows<float, rows> dy,
                       Rows<float, columns> dx) {
    linear_weight_gradient(backend_, fixed(x), fixed(dy), g.weight, g.bias);
    linear_input_gradient(backend_, fixed(dy), fixed(p.weight), dx);
  }

  void predict_backward(const Predictor& p, const Predictor& g) {
    normalize_backward(std::get<4>(p), std::get<4>(g), q3_, qs4_, dq_, d_out_);
    linear_backward(std::get<3>(p), std::get<3>(g), q2_, d_out_, d_hidden_);
    activation_backward<Relu>(backend_, fixed(q1_), fixed(d_hidden_), d_hidden2_);
    normalize_backward(std::get<1>(p), std::get<1>(g), q0_, qs1_, d_hidden2_, d_hidden_);
    linear_backward(std::get<0>(p), std::get<0>(g), student_acts_.z, d_hidden_, dz_);
  }

  void project_backward(const Head& p, const Head& g) {
    Acts& a = student_acts_;
    normalize_backward(std::get<7>(p), std::get<7>(g), a.h6, a.s7, dz_, d_out_);
    linear_backward(std::get<6>(p), std::get<6>(g), a.h5, d_out_, d_hidden_);
    activation_backward<Relu>(backend_, fixed(a.h4), fixed(d_hidden_), d_hidden2_);
    normalize_backward(std::get<4>(p), std::get<4>(g), a.h3, a.s4, d_hidden2_, d_hidden_);
    linear_backward(std::get<3>(p), std::get<3>(g), a.h2, d_hidden_, d_hidden2_);
    activation_backward<Relu>(backend_, fixed(a.h1), fixed(d_hidden2_), d_hidden_);
    normalize_backward(std::get<1>(p), std::get<1>(g), a.h0, a.s1, d_hidden_, d_hidden2_);
    linear_backward(std::get<0>(p), std::get<0>(g), a.features, d_hidden2_, d_features_);
  }

  template <class Parameters>
  void encode_backward(const Parameters& p, const Parameters& g) {
    Acts& a = student_acts_;
    layer_norm_backward(backend_, fixed(a.last), fixed(p.norm.weight), fixed(a.norm), fixed(d_features_), {}, d_class_,
                        g.norm.weight, g.norm.bias);
    const Block &last = p.blocks[depth - 1], &d_last = g.blocks[depth - 1];
    BlockActs& b = a.blocks[depth - 1];
    const auto d_middle = d_middle_.part(0, images);
    perceive_backward(last, d_last, b, images, d_class_, d_middle);
    linear_backward(last.attn.proj, d_last.attn.proj, a.class_mixed, d_middle, d_class_);
    take_token_backward<tokens>(backend_, fixed(d_class_), 0, d_mixed_);
    take_token_backward<tokens>(backend_, fixed(d_middle), 0, dx_);
    attend_backward(last, d_last, b, dx_);
    for (std::size_t i = depth - 1; i-- > 0;) {
      perceive_backward(p.blocks[i], g.blocks[i], a.blocks[i], all, dx_, d_middle_);
      linear_backward(p.blocks[i].attn.proj, g.blocks[i].attn.proj, a.blocks[i].mixed, d_middle_, d_mixed_);
      attend_backward(p.blocks[i], g.blocks[i], a.blocks[i], d_middle_);
    }
    assemble_tokens_backward<grid_tokens, tokens>(backend_, fixed(dx_), Rows<float, width>{}, g.cls_token,
                                                  static_cast<float*>(nullptr));
  }

  void perceive_backward(const Block& p, const Block& g, BlockActs& b, ts::index rows, Rows<float, width> dy,
                         Rows<float, width> d_middle) {
    const auto d_before = d_before_.part(0, rows), activated = activated_.part(0, rows);
    const auto d_normed = d_normed_.part(0, rows);
    linear_activation_gradient<Gelu>(backend_, fixed(dy), fixed(p.mlp.fc2.weight), fixed(b.before), d_before, activated,
                                     g.mlp.fc1.bias);
    linear_weight_gradient(backend_, fixed(activated), fixed(dy), g.mlp.fc2.weight, g.mlp.fc2.bias);
    linear_weight_gradient(backend_, fixed(b.normed2), fixed(d_before), g.mlp.fc1.weight, static_cast<float*>(nullptr));
    linear_input_gradient(backend_, fixed(d_before), fixed(p.mlp.fc1.weight), d_normed);
    layer_norm_backward(backend_, fixed(b.middle), fixed(p.norm2.weight), fixed(b.norm2), fixed(d_normed), fixed(dy),
                        d_middle, g.norm2.weight, g.norm2.bias);
  }

  // dx_ = residual + the gradient of d_mixed_ through attention and the norm in front of it.
  void attend_backward(const Block& p, const Block& g, BlockActs& b, Rows<float, width> residual) {
    attention_backward<tokens, heads>(backend_, fixed(b.qkv), fixed(b.mixed), fixed(b.log_sums), fixed(d_mixed_),
                                      d_qkv_);
    linear_backward(p.attn.qkv, g.attn.qkv, b.normed1, d_qkv_, d_normed_);
    layer_norm_backward(backend_, fixed(b.x), fixed(p.norm1.weight), fixed(b.norm1), fixed(d_normed_), fixed(residual),
                        dx_, g.norm1.weight, g.norm1.bias);
  }

  static const float* fixed(float* parameter) { return parameter; }
  template <int columns>
  static Rows<const float, columns> fixed(Rows<float, columns> rows) {
    return rows;
  }

  static constexpr const float* null_ = nullptr;
  using Buffer = ts::cpu::Buffer<float>;
  Backend backend_{2};
  ts::comm::Serial communicator_;
  ts::Context<Backend, ts::comm::Serial> context_{backend_, communicator_, ts::Mode::train, 2};
  Buffer student_{StudentLayout::parameters}, gradient_{student_.size()}, moment1_{student_.size()},
      moment2_{student_.size()}, teacher_{TeacherLayout::parameters}, student_statistics_{StudentLayout::statistics},
      teacher_statistics_{TeacherLayout::statistics};
  const std::array<float*, 2> moments_{moment1_.data(), moment2_.data()};
  const std::vector<ts::optim::Group> groups_ = std::vector<ts::optim::Group>(StudentLayout::entries.size());
  const ts::optim::Updater<Backend> updater_{ts::optim::AdamW{}};
  long steps_ = -1;  // planning counts one
  std::deque<Buffer> rooms_;
  Acts student_acts_ = acts(), teacher_acts_ = acts();
  Rows<float, values> patches_ = room<values>(images * grid_tokens);
  Rows<float, width> embedded_ = room<width>(images * grid_tokens), d_mixed_ = room<width>(all),
                     d_middle_ = room<width>(all), d_normed_ = room<width>(all), dx_ = room<width>(all),
                     d_class_ = room<width>(images), d_features_ = room<width>(images);
  Rows<float, 3 * width> d_qkv_ = room<3 * width>(all);
  Rows<float, mlp> activated_ = room<mlp>(all), d_before_ = room<mlp>(all);
  Rows<float, hidden> q0_ = room<hidden>(images), q1_ = room<hidden>(images), q2_ = room<hidden>(images),
                      d_hidden_ = room<hidden>(images), d_hidden2_ = room<hidden>(images);
  Rows<float, out> q3_ = room<out>(images), q_ = room<out>(images), unit_q_ = room<out>(images),
                   unit_k_ = room<out>(images), dq_ = room<out>(images), dz_ = room<out>(images),
                   d_out_ = room<out>(images);
  Rows<float, 1> inverse_q_ = room<1>(images), inverse_k_ = room<1>(images);
  Rows<float, 2 * hidden> qs1_ = room<2 * hidden>(2);
  Rows<float, 2 * out> qs4_ = room<2 * out>(2);
};

class Composed {
 public:
  double step(Rows<const float, Encoder::in> x) {
    return trainer_.step(bench::batch_of<MoCo>(x.data, batch), settings);
  }

 private:
  ts::cpu::Device<> device_{2};
  ts::Trainer<MoCo> trainer_{device_, ts::optim::AdamW{}, {.batch = batch, .seed = 1}};
};

template <class Way>
void step(benchmark::State& state) {
  const std::vector<float> images = random_images();
  const Rows<const float, Encoder::in> x{images.data(), 2 * batch};
  Composed composed;
  ByHand by_hand;
  for (int i = 0; i < 3; ++i)
    if (composed.step(x) != by_hand.step(x)) return state.SkipWithError("the two ways differ");
  Way way;
  for (auto _ : state) benchmark::DoNotOptimize(way.step(x));
  state.SetItemsProcessed(state.iterations() * batch);
}
BENCHMARK(step<Composed>)->Name("step_composed")->UseRealTime()->Unit(benchmark::kMillisecond);
BENCHMARK(step<ByHand>)->Name("step_by_hand")->UseRealTime()->Unit(benchmark::kMillisecond);

}  // namespace
