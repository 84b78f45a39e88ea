// expect: a data set needs size() and decode(i, scratch)
#include "tessera/data/loader.hpp"
#include "tessera/models/vit/vit.hpp"
namespace ts = tessera;
struct Pictures {
  int size() const { return 100; }
#ifdef BAD
  ts::data::ImageView image(int) const {
    return {};
  }
#else
  ts::data::ImageView decode(int, ts::data::Image&) const {
    return {};
  }
#endif
};
using Reads = ts::data::Reads<ts::data::Crops<2, ts::image<28>>>;
void load(const Pictures& pictures) {
  ts::data::Loader<Pictures, Reads> loader(pictures, Reads{}, {});
}
