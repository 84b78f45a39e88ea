#include "third_party.hpp"
#define min 1
#define max 2
#define I 3
#define N 4
#define T 5
#define E 6
#define U 7
#define _1 8
#include "everything.hpp"
