#include <tessera/tessera.hpp>

#include "everything.hpp"

long parameters_b();
long parameters_a() {
  return tessera::Layout<tessera::vit::Tiny<>>::parameter_count;
}

int main() {
  return parameters_a() == parameters_b() ? 0 : 1;
}
