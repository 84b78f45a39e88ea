// Where tests find fixtures/ when they run. One translation unit knows it, so that the others are the same in any
// folder and a compiler cache shares them between checkouts.
#pragma once

#include <string>

namespace tessera::test {

[[nodiscard]] std::string test_data();

}  // namespace tessera::test
