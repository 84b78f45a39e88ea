#include <tessera/tessera.hpp>
#include "everything.hpp"

long parameters_b() {
  return tessera::Layout<tessera::vit::Tiny<>>::parameter_count;
}
