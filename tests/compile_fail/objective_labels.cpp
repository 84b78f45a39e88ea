// expect: an objective that asks for labels names data::Labels in its Reads
#include <string_view>

#include "tessera/models/vit/vit.hpp"
#include "tessera/train/trainer.hpp"
namespace ts = tessera;
namespace objectives = ts::objectives;
struct Mine {
  static constexpr std::string_view name = "mine", encoder_name = "encoder";
  using Encoder = ts::vit::Tiny<>;
#ifdef BAD
  using Reads = ts::data::Reads<ts::data::Crops<1, Encoder::Image>>;
#else
  using Reads = ts::data::Reads<ts::data::Crops<1, Encoder::Image>, ts::data::Labels>;
#endif
  using Networks = objectives::Networks<objectives::Trained<objectives::Named<"encoder", Encoder>>>;
  using Settings = objectives::NoSettings;
  static const auto& encoder(const auto& online) {
    return std::get<0>(online);
  }
  template <class Step>
  static void step(Step& s) {
    s.context.backend.clear(1, s.loss());
    static_cast<void>(s.labels());
  }
};
void train(ts::cpu::Device<>& device) {
  ts::Trainer<Mine> trainer(device, ts::optim::AdamW{}, {});
}
