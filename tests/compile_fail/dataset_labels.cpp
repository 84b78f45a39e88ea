// expect: this objective reads labels, but the data set has no label(i)
#include "tessera/data/loader.hpp"
#include "tessera/models/vit/vit.hpp"
namespace ts = tessera;
struct Pictures {
  int size() const { return 100; }
  ts::data::ImageView decode(int, ts::data::Image&) const { return {}; }
#ifndef BAD
  int label(int i) const {
    return i % 10;
  }
#endif
};
using Reads = ts::data::Reads<ts::data::Crops<2, ts::image<28>>, ts::data::Labels>;
void load(const Pictures& pictures) {
  ts::data::Loader<Pictures, Reads> loader(pictures, Reads{}, {});
}
