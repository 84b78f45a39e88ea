#include "support/test_data.hpp"

namespace tessera::test {

std::string test_data() {
  return TESSERA_TEST_DATA;
}

}  // namespace tessera::test
