#!/usr/bin/env bash
# Proves and measures the CUDA backend on this machine's device: tests, compute-sanitizer, kernels, training steps, the
# same steps in PyTorch, pre-training on Fashion-MNIST. Under 9 minutes once everything is built.
#
#   bench/gpu.sh [--prebuilt DIR] [--out DIR] [--only STAGE,...] [--data DIR] [--peer "FLAGS"]
#   bench/gpu.sh --pack DIR        build, put the programs into DIR for --prebuilt on another machine, and run nothing
#
# Results go to --out (runs/gpu): results.md, results.json, and logs/. --data is the folder of Fashion-MNIST's IDX files.
# Stages (--only takes some, and gives them all the time): tests memcheck racecheck kernels step peer pretrain longer.
# PYTHON is the interpreter whose PyTorch is the peer; --peer hands flags to bench/peer/torch_gpu.py.
set -euo pipefail
cd "$(dirname "$0")/.."

# NCCL's tests are there where NCCL is.
programs=(tests/cuda/tests_cuda bench/cuda/cuda_kernels_bench bench/cuda/cuda_step_bench examples/pretrain_cuda)
prebuilt='' pack='' out=runs/gpu only='' data=/usr/share/datasets/fashion-mnist peer='' python=${PYTHON:-python3}
while [ $# -gt 0 ]; do
  [ $# -ge 2 ] || { echo "bench/gpu.sh: $1 needs a value; the head of this file lists the flags" >&2; exit 2; }
  case $1 in
    --prebuilt) prebuilt=$2 ;;
    --pack) pack=$2 ;;
    --out) out=$2 ;;
    --only) only=${2//,/ } ;;
    --data) data=$2 ;;
    --peer) peer=$2 ;;
    *) echo "bench/gpu.sh: there is no flag $1; the head of this file lists them" >&2; exit 2 ;;
  esac
  shift 2
done

# Seconds of each stage; their sum is what the whole may take.
declare -A share=([tests]=65 [nccl]=20 [memcheck]=60 [racecheck]=60 [kernels]=60 [step]=115 [peer]=90 [pretrain]=20 [longer]=40)
order=(tests nccl memcheck racecheck kernels step peer pretrain longer)
whole=0 selected=0
for stage in "${order[@]}"; do
  whole=$((whole + share[$stage]))
done
for stage in ${only:-${order[*]}}; do
  [ -n "${share[$stage]:-}" ] || { echo "bench/gpu.sh: there is no stage $stage; there are ${order[*]}" >&2; exit 2; }
  selected=$((selected + share[$stage]))
done

build() {
  command -v nvcc >/dev/null || [ -x /usr/local/cuda/bin/nvcc ] || {
    echo "bench/gpu.sh: there is no nvcc on this machine; --prebuilt takes programs that --pack built on another" >&2
    exit 1
  }
  # Portable host code, optimised on both sides of nvcc, so that what is packed runs elsewhere too.
  echo "Building into build/gpu"
  cmake -S . -B build/gpu -G Ninja -DTESSERA_CUDA=ON -DTESSERA_MATMUL=eigen -DTESSERA_TEST_DATA=tests \
    -DCMAKE_BUILD_TYPE=None -DCMAKE_CXX_FLAGS="-O3 -DNDEBUG" -DCMAKE_CUDA_FLAGS="-O3 -DNDEBUG" >/dev/null
  if grep -q 'tests_nccl:' build/gpu/build.ninja; then programs+=(tests/cuda/tests_nccl); fi
  cmake --build build/gpu --target "${programs[@]##*/}"
}

if [ -n "$pack" ]; then
  build
  mkdir -p "$pack/lib"
  for program in "${programs[@]}"; do
    strip -o "$pack/${program##*/}" "build/gpu/$program"
    # The system's and the toolkit's own libraries are the other machine's.
    ldd "build/gpu/$program" | awk '$3 ~ /^\// { print $3 }' |
      grep -vE '/(libc|libm|libdl|librt|libpthread|libstdc\+\+|libgcc_s|libcu[a-zA-Z]*|libnccl)\.so' |
      xargs -r cp -L -t "$pack/lib"
  done
  du -sh "$pack"
  exit 0
fi

nvidia-smi -L 2>/dev/null | grep -q '^GPU' || {
  echo "bench/gpu.sh: there is no CUDA device on this machine; everything here measures one" >&2
  exit 1
}
if [ -n "$prebuilt" ]; then
  declare -A path
  for program in "${programs[@]##*/}"; do
    path[$program]=$prebuilt/$program
    [ -x "${path[$program]}" ] || { echo "bench/gpu.sh: --prebuilt $prebuilt has no $program" >&2; exit 2; }
  done
  if [ -x "$prebuilt/tests_nccl" ]; then path[tests_nccl]=$prebuilt/tests_nccl; fi
  export LD_LIBRARY_PATH="$prebuilt/lib:/usr/local/cuda/lib64${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}"
else
  build
  declare -A path
  for program in "${programs[@]}"; do path[${program##*/}]=build/gpu/$program; done
fi
logs=$out/logs
rm -rf "$logs"
mkdir -p "$logs"

record() { printf '{"stage": "%s", "status": "%s", "seconds": %d, "limit": %d}\n' "$@" >>"$logs/stages.jsonl"; }

# run STAGE SECONDS COMMAND...: one stage, its output in logs/STAGE.log; what fails is said, and the next goes on.
failed=0
run() {
  local stage=$1 limit=$2 status=0 start=$SECONDS says=ok
  shift 2
  printf '%-10s ' "$stage"
  timeout --kill-after=5 "$limit" "$@" >"$logs/$stage.log" 2>&1 || status=$?
  case $status in
    0) ;;
    124 | 137) says="stopped after its $limit s" ;;
    *) says="failed with exit code $status" ;;
  esac
  echo "$says ($((SECONDS - start)) s)"
  record "$stage" "$says" $((SECONDS - start)) "$limit"
  [ $status -eq 0 ] || { failed=1; tail -3 "$logs/$stage.log" | sed 's/^/  /'; }
}
skip() {
  printf '%-10s skipped: %s\n' "$1" "$2"
  record "$1" "skipped: $2" 0 0
}
wanted() { [[ " ${only:-${order[*]}} " == *" $1 "* ]]; }
# What a stage may take: its share of the whole, which it has with the other selected ones alone.
limit() { echo $((share[$1] * whole / selected)); }

{
  date -u +%FT%TZ
  nvidia-smi
  nvidia-smi --query-gpu=name,driver_version,memory.total,clocks.max.sm,power.limit --format=csv
  uname -sr
  nproc
  git log -1 --format='commit %H' 2>/dev/null || true
} >"$logs/machine.txt" 2>&1 || true

# bench STAGE SECONDS PROGRAM FILTER: a Google Benchmark program. Ceilings are measured in every run.
bench() {
  run "$1" "$2" "${path[$3]}" --benchmark_filter="$4" --benchmark_out="$logs/$1.json" --benchmark_out_format=json
}
bench ceilings 20 cuda_kernels_bench '^ceiling'

if wanted tests; then run tests "$(limit tests)" "${path[tests_cuda]}" --gtest_brief=1; fi
if wanted nccl; then
  if [ -z "${path[tests_nccl]:-}" ] || ldd "${path[tests_nccl]}" | grep -q 'libnccl.*not found'; then
    skip nccl "there is no NCCL on this machine"
  else
    run nccl "$(limit nccl)" "${path[tests_nccl]}" --gtest_brief=1
  fi
fi

sanitizer=$(command -v compute-sanitizer || ls /usr/local/cuda/bin/compute-sanitizer 2>/dev/null || true)
declare -A filter=(
  [memcheck]='Device*/1.*-*Long*:*Large*:*Many*:*1025*:*UsualModels*'
  [racecheck]='DeviceLayerNorm/1.*:DeviceBatchNorm/1.*:DeviceContrastive/1.*:DeviceAttention/1.*:DeviceTokens/1.*:DeviceUpdate/1.*-*Long*:*Large*:*Many*:*1025*:*UsualModels*'
)
for tool in memcheck racecheck; do
  wanted $tool || continue
  if [ -z "$sanitizer" ]; then
    skip $tool "compute-sanitizer is not installed"
  else
    run $tool "$(limit $tool)" "$sanitizer" --tool $tool --error-exitcode 9 "${path[tests_cuda]}" \
      --gtest_filter="${filter[$tool]}"
  fi
done

if wanted kernels; then bench kernels "$(limit kernels)" cuda_kernels_bench '-^ceiling'; fi
if wanted step; then bench step "$(limit step)" cuda_step_bench .; fi

if wanted peer; then
  if "$python" -c 'import sys, torch; sys.exit(not torch.cuda.is_available())' 2>/dev/null; then
    # Each job's line stands in the log as soon as it is done, so that a time limit loses one job alone.
    # shellcheck disable=SC2086  # several flags
    run peer "$(limit peer)" "$python" bench/peer/torch_gpu.py --budget "$(($(limit peer) - 15))" $peer
  else
    skip peer "$python has no PyTorch that sees the device"
  fi
fi

# fashion STAGE FLAGS...: the quickstart's recipe, with flags after it.
fashion() {
  local stage=$1
  shift
  if [ ! -d "$data" ]; then
    skip "$stage" "there is no folder $data; --data says where Fashion-MNIST is"
    return
  fi
  run "$stage" "$(limit "$stage")" "${path[pretrain_cuda]}" --data "$data" --arch vit_tiny \
    --epochs 5 --warmup-epochs 0.5 --batch-size 128 --optimizer adamw --lr 6e-3 --weight-decay 0.1 --moco-m 0.95 \
    --moco-m-cos --moco-t 0.1 --crop-min 0.7 --workers "$(nproc)" --out "$logs/$stage" "$@"
}
if wanted pretrain; then fashion pretrain; fi
# Six times as long, four times the batch at the same rate for each step.
if wanted longer; then
  fashion longer --epochs 30 --warmup-epochs 3 --batch-size 512 --lr 1.5e-3 --save-every 1000000 --knn-every 1000000
fi

/usr/bin/env python3 bench/gpu_summary.py "$out" | tee "$out/results.md"
if [ $failed -ne 0 ]; then
  echo "Some stages failed; $logs has their output."
  exit 3
fi
