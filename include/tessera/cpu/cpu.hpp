// The whole CPU backend. Include it where a Backend is made, so that layers find its operations.
#pragma once

#include "tessera/cpu/activation.hpp"
#include "tessera/cpu/attention.hpp"
#include "tessera/cpu/backend.hpp"
#include "tessera/cpu/batch_norm.hpp"
#include "tessera/cpu/contrastive.hpp"
#include "tessera/cpu/conv.hpp"
#include "tessera/cpu/layer_norm.hpp"
#include "tessera/cpu/linear.hpp"
#include "tessera/cpu/matmul.hpp"
#include "tessera/cpu/nt_xent.hpp"
#include "tessera/cpu/positions.hpp"
#include "tessera/cpu/tokens.hpp"
#include "tessera/cpu/update.hpp"
