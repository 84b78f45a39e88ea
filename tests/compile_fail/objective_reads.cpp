// expect: an objective has Reads = data::Reads<
#include <string_view>

#include "tessera/models/vit/vit.hpp"
#include "tessera/train/trainer.hpp"
namespace ts = tessera;
namespace objectives = ts::objectives;
struct Mine {
  static constexpr std::string_view name = "mine", encoder_name = "encoder";
  using Encoder = ts::vit::Tiny<>;
  using Networks = objectives::Networks<objectives::Trained<objectives::Named<"encoder", Encoder>>>;
  using Settings = objectives::NoSettings;
#ifndef BAD
  using Reads = ts::data::Reads<ts::data::Crops<2, Encoder::Image>>;
#endif
  static const auto& encoder(const auto& online) {
    return std::get<0>(online);
  }
  static void step(auto&) {}
};
static_assert(sizeof(ts::Trainer<Mine>) > 0);
