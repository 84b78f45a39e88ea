// Gradients against five-point differences in double, for any layer.
#pragma once

#include <cmath>
#include <limits>
#include <string>
#include <vector>

#include "tessera/comm/serial.hpp"
#include "tessera/core/layout.hpp"
#include "tessera/core/random.hpp"
#include "tessera/cpu/cpu.hpp"

namespace tessera::test {

struct Unprepared {
  void operator()(auto&) const {}
};

// The largest error of a gradient of Layer, over its tensors and its input, each relative to the tensor's largest
// gradient: of loss = sum(y * r) with random r, at random parameters and inputs of `rows` rows. A gradient that
// backward leaves unassigned counts as infinitely wrong. For tensors of more than 48 values, 48 of them are checked.
// prepare(context) is called in front of every pass.
template <class Layer, class Prepare = Unprepared>
double gradient_error(index rows, int views = 1, std::string* worst = nullptr, Prepare prepare = {}) {
  using Backend = cpu::Backend<double, cpu::EigenMatmul>;
  using Table = Layout<Layer>;
  Backend backend(2);
  comm::Serial communicator;
  Random random(17, Purpose::test, 1, 2);
  const auto fill = [&](double* to, index count, double center, double scale) {
    for (index i = 0; i < count; ++i) to[i] = center + scale * random.normal();
  };
  cpu::Buffer<double> parameters(Table::parameters + 1), gradients(Table::parameters + 1),
      statistics(Table::statistics + 1);
  for (const Entry& entry : Table::entries)
    fill((entry.role == Role::statistic ? statistics : parameters).data() + entry.offset, entry.size(),
         entry.initial.kind == Initial::Kind::constant ? entry.initial.scale : 0, 0.3);
  for (double& value : gradients.span()) value = std::numeric_limits<double>::quiet_NaN();

  const index out_rows = [&] {
    if constexpr (requires { Layer::patches; })
      return rows;
    else if constexpr (requires { Layer::out_rows(rows); })
      return Layer::out_rows(rows);
    else if constexpr (requires { Layer::grid; })
      return rows * Layer::tokens;
    else
      return rows;
  }();
  std::vector<double> x(static_cast<std::size_t>(rows * Layer::in)), dx(x.size()),
      y(static_cast<std::size_t>(out_rows * Layer::out)), r(y.size());
  fill(x.data(), rows * Layer::in, 0, 1);
  fill(r.data(), out_rows * Layer::out, 0, 1);
  const auto p = bind<Layer>(parameters.data(), statistics.data());
  const auto g = bind<Layer>(gradients.data(), static_cast<double*>(nullptr));
  const Rows<const double, Layer::in> input{x.data(), rows};
  const auto pass = [&](bool backward) {
    Context<Backend, comm::Serial> context{backend, communicator, Mode::train, views};
    prepare(context);
    const auto frame = context.frame();
    const auto saved = Layer::forward(context, p, input, Rows<double, Layer::out>{y.data(), out_rows});
    if (backward)
      Layer::backward(context, p, g, input, saved, Rows<const double, Layer::out>{r.data(), out_rows},
                      Rows<double, Layer::in>{dx.data(), rows});
    double loss = 0;
    for (std::size_t i = 0; i < y.size(); ++i) loss += y[i] * r[i];
    return loss;
  };
  pass(true);
  backend.arena().commit();
  pass(true);

  double largest_error = 0;
  const auto check = [&](const std::string& name, double* values, const double* gradient, index count) {
    double error = 0, magnitude = 0;
    const index step = count > 48 ? count / 48 : 1;
    for (index i = 0; i < count; i += step) {
      constexpr double h = 1e-3;
      const double at = values[i];
      const auto loss = [&](double shift) {
        values[i] = at + shift;
        return pass(false);
      };
      const double expected = (8 * (loss(h) - loss(-h)) - (loss(2 * h) - loss(-2 * h))) / (12 * h);
      values[i] = at;
      const double off = std::abs(gradient[i] - expected);
      error = off > error || std::isnan(off) ? off : error;
      magnitude = std::abs(expected) > magnitude ? std::abs(expected) : magnitude;
      if (std::isnan(error)) break;
    }
    error = std::isnan(error) ? HUGE_VAL : error / (magnitude > 1e-2 ? magnitude : 1e-2);
    if (error <= largest_error) return;
    largest_error = error;
    if (worst != nullptr) *worst = name;
  };
  const std::vector<double> assigned(gradients.data(), gradients.data() + gradients.size());
  for (const Entry& entry : Table::entries)
    if (entry.role == Role::trained)
      check(std::string(entry.name.view()), parameters.data() + entry.offset, assigned.data() + entry.offset,
            entry.size());
  const std::vector<double> d_input = dx;
  check("input", x.data(), d_input.data(), rows * Layer::in);
  return largest_error;
}

}  // namespace tessera::test
