// The whole CUDA backend. Include it where a Backend is made, so that layers find its operations.
#pragma once

#include "tessera/cuda/activation.hpp"
#include "tessera/cuda/attention.hpp"
#include "tessera/cuda/backend.hpp"
#include "tessera/cuda/batch_norm.hpp"
#include "tessera/cuda/contrastive.hpp"
#include "tessera/cuda/conv.hpp"
#include "tessera/cuda/cross_entropy.hpp"
#include "tessera/cuda/draws.hpp"
#include "tessera/cuda/drop_path.hpp"
#include "tessera/cuda/layer_norm.hpp"
#include "tessera/cuda/linear.hpp"
#include "tessera/cuda/mixing.hpp"
#include "tessera/cuda/nt_xent.hpp"
#include "tessera/cuda/positions.hpp"
#include "tessera/cuda/tokens.hpp"
#include "tessera/cuda/update.hpp"
