// Gradients against finite differences, for any layer or model: the library's own tests and yours use it.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <limits>
#include <string>
#include <utility>
#include <vector>

#include "tessera/comm/serial.hpp"
#include "tessera/concepts.hpp"
#include "tessera/core/context.hpp"
#include "tessera/core/layout.hpp"
#include "tessera/core/random.hpp"
#include "tessera/core/rows.hpp"
#include "tessera/cpu/cpu.hpp"

namespace tessera {
inline namespace TESSERA_ABI {
namespace testing {

// Leaves the context of a pass as it is.
struct Unprepared {
  void operator()(auto&) const {}
};

namespace detail {

// A layer at random parameters and inputs, and loss = sum(y * r) with random r.
template <class Model, class Prepare>
class GradientCheck {
 public:
  GradientCheck(index rows, int views, Prepare prepare)
      : rows_(rows),
        views_(views),
        prepare_(std::move(prepare)),
        x_(static_cast<std::size_t>(rows * Model::in)),
        dx_(x_.size()),
        y_(static_cast<std::size_t>(out_rows_ * Model::out)),
        r_(y_.size()) {
    for (const Entry& entry : Table::entries)
      fill((entry.role == Role::statistic ? statistics_ : parameters_).data() + entry.offset, entry.size(),
           entry.initial.kind == Initial::Kind::constant ? entry.initial.scale : 0, 0.3);
    std::ranges::fill(gradients_.span(), std::numeric_limits<double>::quiet_NaN());
    fill(x_.data(), rows_ * Model::in, 0, 1);
    fill(r_.data(), out_rows_ * Model::out, 0, 1);
    loss(true);
    backend_.arena().commit();
    loss(true);
  }

  // The largest error, and the name of its tensor.
  [[nodiscard]] std::pair<double, std::string> worst() {
    const std::vector<double> assigned(gradients_.data(), gradients_.data() + gradients_.size()), d_input = dx_;
    for (const Entry& entry : Table::entries)
      if (entry.role == Role::trained)
        compare(std::string(entry.name.view()), parameters_.data() + entry.offset, assigned.data() + entry.offset,
                entry.size());
    compare("input", x_.data(), d_input.data(), rows_ * Model::in);
    return worst_;
  }

 private:
  using Backend = cpu::Backend<double, cpu::EigenMatmul>;
  using Table = Layout<Model>;

  void fill(double* to, index count, double center, double scale) {
    for (index i = 0; i < count; ++i) to[i] = center + scale * random_.normal();
  }

  double loss(bool with_gradients) {
    Context<Backend, comm::Serial> context{backend_, communicator_, Mode::train, views_};
    prepare_(context);
    const auto frame = context.frame();
    const auto p = bind<Model>(parameters_.data(), statistics_.data());
    const Rows<const double, Model::in> x{x_.data(), rows_};
    const auto saved = Model::forward(context, p, x, Rows<double, Model::out>{y_.data(), out_rows_});
    if (with_gradients)
      Model::backward(context, p, bind<Model>(gradients_.data(), static_cast<double*>(nullptr)), x, saved,
                      Rows<const double, Model::out>{r_.data(), out_rows_}, Rows<double, Model::in>{dx_.data(), rows_});
    double sum = 0;
    for (std::size_t i = 0; i < y_.size(); ++i) sum += y_[i] * r_[i];
    return sum;
  }

  // The five-point difference of the loss in one value.
  double derivative(double& value) {
    constexpr double h = 1e-3;
    const double at = value;
    const auto shifted = [&](double shift) {
      value = at + shift;
      return loss(false);
    };
    const double difference = (8 * (shifted(h) - shifted(-h)) - (shifted(2 * h) - shifted(-2 * h))) / (12 * h);
    value = at;
    return difference;
  }

  void compare(const std::string& name, double* values, const double* gradient, index count) {
    constexpr index most = 48;  // values of a tensor
    double error = 0, magnitude = 1e-2;
    for (index i = 0; i < count && !std::isnan(error); i += count > most ? count / most : 1) {
      const double expected = derivative(values[i]), off = std::abs(gradient[i] - expected);
      error = off > error || std::isnan(off) ? off : error;
      magnitude = larger(magnitude, std::abs(expected));
    }
    error = std::isnan(error) ? HUGE_VAL : error / magnitude;
    if (error > worst_.first) worst_ = {error, name};
  }

  index rows_, out_rows_ = Model::out_rows(rows_);
  int views_;
  Prepare prepare_;
  Backend backend_{2};
  comm::Serial communicator_;
  Random random_{17, Purpose::test, 1, 2};
  cpu::Buffer<double> parameters_{Table::parameters + 1}, gradients_{Table::parameters + 1},
      statistics_{Table::statistics + 1};
  std::vector<double> x_, dx_, y_, r_;
  std::pair<double, std::string> worst_{0, ""};
};

}  // namespace detail

// The largest error of a gradient of Model, over its trained tensors and its input, each relative to the tensor's
// largest gradient (or to 0.01 where all are smaller): backward against five-point differences in double, at random
// parameters and an input of `rows` rows, in training mode with `views` groups of rows for BatchNorm. Of tensors of
// more than 48 values about 48 are compared. A gradient that backward leaves unassigned counts as infinitely wrong;
// *worst receives the name of the tensor with the largest error. A correct backward of a smooth layer stays below 1e-7;
// differences that straddle a kink, such as ReLU's, are off by more.
//
// prepare(context) is called in front of every pass and may set what the layer reads there:
//   gradient_error<Encoder>(images, 1, &worst, [&](auto& context) { context.drop_path = true; ... });
template <class Model, class Prepare = Unprepared>
[[nodiscard]] double gradient_error(index rows, int views = 1, std::string* worst = nullptr, Prepare prepare = {}) {
  static_assert(Layer<Model>,
                "tessera: a layer needs in, out, Parameters, Saved, out_rows(rows), declare, forward and backward; "
                "tessera/concepts.hpp shows the shortest one");
  const auto [error, name] = detail::GradientCheck<Model, Prepare>(rows, views, std::move(prepare)).worst();
  if (worst != nullptr) *worst = name;
  return error;
}

}  // namespace testing
}  // namespace TESSERA_ABI
}  // namespace tessera
