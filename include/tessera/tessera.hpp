// Everything of the host side that needs Eigen, xtensor and fmt alone, and the CUDA backend where nvcc compiles it.
// Headers in io/, data/ and parts of eval/ say at their top what else they need.
#pragma once

#include "tessera/comm/serial.hpp"
#include "tessera/concepts.hpp"
#include "tessera/core/abi.hpp"
#include "tessera/core/context.hpp"
#include "tessera/core/errors.hpp"
#include "tessera/core/layout.hpp"
#include "tessera/core/math.hpp"
#include "tessera/core/memory.hpp"
#include "tessera/core/parallel.hpp"
#include "tessera/core/random.hpp"
#include "tessera/core/simd.hpp"
#include "tessera/core/update.hpp"
#include "tessera/cpu/cpu.hpp"
#include "tessera/embed/conv_stem.hpp"
#include "tessera/embed/patches.hpp"
#include "tessera/models/initialize.hpp"
#include "tessera/models/vit.hpp"
#include "tessera/optim/optimizers.hpp"
#include "tessera/optim/schedules.hpp"
#include "tessera/position/position.hpp"
#include "tessera/ssl/heads.hpp"
#include "tessera/ssl/moco_v3.hpp"
#include "tessera/train/trainer.hpp"

#if defined(__CUDACC__)
#include "tessera/cuda/cuda.hpp"
#endif
