#include "everything.hpp"
#include <tessera/tessera.hpp>

long parameters_b() { return tessera::Layout<tessera::vit::Tiny<>>::parameter_count; }
