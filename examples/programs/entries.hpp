// The entries of a program: one for each objective and encoder that the build picks (registry.cmake, which writes the
// definition).
#pragma once

#include <vector>

#include "tessera/programs/options.hpp"

namespace entries {

std::vector<tessera::programs::Entry> all();

}  // namespace entries
