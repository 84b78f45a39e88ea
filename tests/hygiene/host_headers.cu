// nvcc compiles the host side of the library.
#include <tessera/tessera.hpp>

static_assert(tessera::Layout<tessera::vit::Small<>>::parameter_count == 21665664);
