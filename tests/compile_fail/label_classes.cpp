// expect: there is at least one class of labels
#include "tessera/data/reads.hpp"

namespace ts = tessera;

#ifdef BAD
using Labels = ts::data::ClassLabels<0>;
#else
using Labels = ts::data::ClassLabels<1>;
#endif

static_assert(Labels::classes < 2);
