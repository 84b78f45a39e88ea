// What clang-tidy reads: the headers that a user's program includes.
#include "tessera/data/idx.hpp"
#include "tessera/eval/encoder.hpp"
#include "tessera/eval/linear_probe.hpp"
#include "tessera/objectives/simclr.hpp"
#include "tessera/objectives/supervised.hpp"
#include "tessera/programs/pretrain.hpp"
#include "tessera/programs/probe.hpp"
#include "tessera/tessera.hpp"
