// nvcc compiles the host side of the library, without a warning.
#include <tessera/tessera.hpp>

static_assert(tessera::Layout<tessera::vit::Small<>>::parameter_count == 21665664);
