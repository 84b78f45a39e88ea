// expect: tessera: an optimizer's rule needs a name, a number of states
#include <string_view>

#include "tessera/cpu/cpu.hpp"
#include "tessera/optim/optimizer.hpp"
namespace ts = tessera;
struct SignSgd {
  static constexpr std::string_view name = "sign_sgd";
  static constexpr int states = 0;
  struct Coefficients {
    double learning_rate;
  };
  static Coefficients coefficients(double learning_rate, long) { return {learning_rate}; }
  template <class Number>
  static constexpr Number factors(const Coefficients& c, const ts::optim::Group& group) {
    return static_cast<Number>(c.learning_rate * group.rate);
  }
#ifdef BAD
  static void update(float rate, float& weight, float gradient) {
    weight -= gradient > 0 ? rate : -rate;
  }
#else
  template <class Number, class Value>
  static constexpr void update(Number rate, Value& weight, Value gradient) {
    weight = weight - (gradient > 0 ? Value{} + rate : Value{} - rate);
  }
#endif
};
const ts::optim::Updater<ts::cpu::Backend<float>> updater{SignSgd{}};
