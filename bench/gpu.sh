#!/usr/bin/env bash
# Proves and measures the CUDA backend on this machine's device: tests, compute-sanitizer, kernels, training steps, the
# same steps in PyTorch, pre-training on Fashion-MNIST. In three calls, each under 10 minutes once everything is built.
#
#   bench/gpu.sh [--call 1|2|3] [--prebuilt DIR] [--out DIR] [--only STAGE,...] [--data DIR] [--peer "FLAGS"]
#   bench/gpu.sh --pack DIR        build, put the programs into DIR for --prebuilt on another machine, and run nothing
#   bench/gpu.sh --tables DIR      results.md and results.json of all calls whose archives are in DIR
#
# A call's results go to --out (runs/gpu) as one archive, call1.tar.gz and so on, which grows with every stage; without
# --call all three are made one after the other. --data is the folder of Fashion-MNIST's IDX files. --only takes some
# stages, and gives them all the time of a call:
#   1: tests nccl kernels products step    2: peer attention step_peer compiled tuned
#   3: ncu memcheck racecheck step_large step_most pretrain longer
# PYTHON is the interpreter whose PyTorch is the peer; --peer hands flags to bench/peer/torch_gpu.py.
set -euo pipefail
cd "$(dirname "$0")/.."

# NCCL's tests are there where NCCL is.
programs=(tests/cuda/tests_cuda bench/cuda/cuda_kernels_bench bench/cuda/cuda_step_bench examples/pretrain_cuda)
prebuilt='' pack='' tables='' out=runs/gpu only='' call='' data=/usr/share/datasets/fashion-mnist peer=''
python=${PYTHON:-python3}
while [ $# -gt 0 ]; do
  [ $# -ge 2 ] || { echo "bench/gpu.sh: $1 needs a value; the head of this file lists the flags" >&2; exit 2; }
  case $1 in
    --prebuilt) prebuilt=$2 ;;
    --pack) pack=$2 ;;
    --tables) tables=$2 ;;
    --out) out=$2 ;;
    --only) only=${2//,/ } ;;
    --call) call=$2 ;;
    --data) data=$2 ;;
    --peer) peer=$2 ;;
    *) echo "bench/gpu.sh: there is no flag $1; the head of this file lists them" >&2; exit 2 ;;
  esac
  shift 2
done

# Seconds of each stage, and the stages of each call; the ceilings, 20 s, are measured in each.
declare -A share=([tests]=110 [nccl]=30 [kernels]=90 [products]=120 [step]=90
  [peer]=110 [attention]=40 [step_peer]=40 [compiled]=110 [tuned]=190
  [ncu]=80 [memcheck]=90 [racecheck]=90 [step_large]=110 [step_most]=70 [pretrain]=25 [longer]=45)
declare -A stages_of=([1]="tests nccl kernels products step" [2]="peer attention step_peer compiled tuned"
  [3]="ncu memcheck racecheck step_large step_most pretrain longer")
call_seconds=510
[ -z "$call" ] || [ -n "${stages_of[$call]:-}" ] || { echo "bench/gpu.sh: there is no call $call; there are 1, 2 and 3" >&2; exit 2; }
selected=0
for stage in $only; do
  [ -n "${share[$stage]:-}" ] || { echo "bench/gpu.sh: there is no stage $stage; there are ${stages_of[*]}" >&2; exit 2; }
  selected=$((selected + share[$stage]))
done

# The tables of the archives in a folder.
if [ -n "$tables" ]; then
  compgen -G "$tables/*.tar.gz" >/dev/null || { echo "bench/gpu.sh: $tables holds no archive of a call" >&2; exit 2; }
  work=$(mktemp -d)
  trap 'rm -rf "$work"' EXIT
  for archive in "$tables"/*.tar.gz; do tar -xzf "$archive" -C "$work"; done
  /usr/bin/env python3 bench/gpu_summary.py "$work" | tee "$tables/results.md"
  mv "$work/results.json" "$tables/"
  exit 0
fi

build() {
  command -v nvcc >/dev/null || [ -x /usr/local/cuda/bin/nvcc ] || {
    echo "bench/gpu.sh: there is no nvcc on this machine; --prebuilt takes programs that --pack built on another" >&2
    exit 1
  }
  # Portable host code, optimised on both sides of nvcc, so that what is packed runs elsewhere too.
  echo "Building into build/gpu"
  cmake -S . -B build/gpu -G Ninja -DTESSERA_CUDA=ON -DTESSERA_MATMUL=packed -DTESSERA_TEST_DATA=tests \
    -DCMAKE_BUILD_TYPE=None -DCMAKE_CXX_FLAGS="-O3 -DNDEBUG" -DCMAKE_CUDA_FLAGS="-O3 -DNDEBUG -lineinfo" >/dev/null
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

# CUDA's libraries may be those of Python's packages, such as PyTorch's. A program that lacks one is said before anything
# is measured.
from_python=$("$python" -c '
import glob, nvidia
print(":".join(folder for place in nvidia.__path__ for folder in sorted(glob.glob(place + "/*/lib"))))' 2>/dev/null || true)
[ -z "$from_python" ] || export LD_LIBRARY_PATH="${LD_LIBRARY_PATH:+$LD_LIBRARY_PATH:}$from_python"
lacking=0
for program in "${!path[@]}"; do
  missing=$(ldd "${path[$program]}" 2>&1 | awk '/not found/ { print $1 }' | sort -u | paste -sd' ')
  [ -n "$missing" ] || continue
  if [ "$program" = tests_nccl ]; then
    unset "path[tests_nccl]"
  else
    echo "bench/gpu.sh: ${path[$program]} needs $missing, which is in no folder of LD_LIBRARY_PATH or of $python's packages" >&2
    lacking=1
  fi
done
[ $lacking -eq 0 ] || exit 1

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
logs=$work/logs
mkdir -p "$out" "$logs"

archive() { tar -czf "$out/.call.tmp" -C "$work" . && mv "$out/.call.tmp" "$out/call${number}.tar.gz"; }
record() {
  printf '{"stage": "%s", "status": "%s", "seconds": %d, "limit": %d}\n' "$@" >>"$logs/stages.$number.jsonl"
  archive
}
skip() {
  printf '%-10s skipped: %s\n' "$1" "$2"
  record "$1" "skipped: $2" 0 0
}

# each STAGE SECONDS PART...: a stage in parts, each a process of its own, so that an error on the device, which ends what
# its process can do there, costs one part. command_of says what a part is. What fails is said, and the next goes on.
failed=0
each() {
  local stage=$1 limit=$2 start=$SECONDS end=$((SECONDS + $2)) part status says=ok broken=() late=()
  shift 2
  printf '%-10s ' "$stage"
  : >"$logs/$stage.log"
  for part in "$@"; do
    if [ $SECONDS -ge $end ]; then
      late+=("$part")
      continue
    fi
    status=0
    command_of "$stage" "$part"
    timeout --kill-after=5 $((end - SECONDS)) "${command[@]}" >>"$logs/$stage.log" 2>&1 || status=$?
    case $status in
      0) ;;
      124 | 137) late+=("$part") ;;
      *) broken+=("$part (exit code $status)") ;;
    esac
  done
  [ ${#broken[@]} -eq 0 ] || says="failed: ${broken[*]}"
  [ ${#late[@]} -eq 0 ] || says="${says/#ok/}${broken:+; }not done within $limit s: ${late[*]}"
  echo "$says ($((SECONDS - start)) s)"
  record "$stage" "$says" $((SECONDS - start)) "$limit"
  [ "$says" = ok ] || { failed=1; tail -3 "$logs/$stage.log" | sed 's/^/  /'; }
}

# The suites of tests_cuda whose names match.
suites() { "${path[tests_cuda]}" --gtest_list_tests | grep -oE '^[A-Za-z0-9_/]+\.' | grep -E "$1" || true; }
long_tests='*Long*:*Large*:*Many*:*1025*:*UsualModels*'
# Six kernels, and the benchmarks that launch them.
declare -A profiled=([resident_forward]=attention_forward/4096x197x12x64 [whole_backward]=attention_backward/4096x197x12x64
  [layer_norm_gradient]=layer_norm_backward [activation_gradient]=gelu_gradient [update]=adamw_update [augment]=augment)

command_of() {
  local stage=$1 part=$2 program=cuda_kernels_bench
  case $stage in
    tests) command=("${path[tests_cuda]}" --gtest_brief=1 --gtest_filter="$part*") ;;
    nccl) command=("${path[tests_nccl]}" --gtest_brief=1) ;;
    memcheck | racecheck)
      command=("$sanitizer" --tool "$stage" --error-exitcode 9 "${path[tests_cuda]}" --gtest_brief=1
        --gtest_filter="$part*-$long_tests")
      ;;
    ncu)
      command=("$ncu" --set full --kernel-name "regex:${part}_kernel" --launch-count 1 --force-overwrite
        --export "$logs/ncu_$part" "${path[$program]}" --benchmark_filter="${profiled[$part]}")
      ;;
    pretrain | longer)
      # The quickstart's recipe; six times as long, four times the batch at the same rate for each step.
      command=("${path[pretrain_cuda]}" --data "$data" --arch vit_tiny --epochs 5 --warmup-epochs 0.5 --batch-size 128
        --optimizer adamw --lr 6e-3 --weight-decay 0.1 --moco-m 0.95 --moco-m-cos --moco-t 0.1 --crop-min 0.7
        --workers "$(nproc)" --out "$logs/$stage")
      [ "$stage" = pretrain ] || command+=(--epochs 30 --warmup-epochs 3 --batch-size 512 --lr 1.5e-3
        --save-every 1000000 --knn-every 1000000)
      ;;
    peer | compiled | tuned)
      # Each job's line stands in the log as soon as it is done, so that a time limit loses one job alone.
      local -A mode=([peer]=eager [compiled]=compiled [tuned]=max-autotune)
      command=("$python" bench/peer/torch_gpu.py --modes "${mode[$stage]}" --views stacked --batches 256
        --budget "$(($(limit "$stage") - 10))")
      [ "$stage" = peer ] || command+=(--only step_ --models "vit_base_16,vit_small_16")
      # shellcheck disable=SC2206  # several flags
      command+=($peer)
      ;;
    *)
      [[ $stage != step* ]] || program=cuda_step_bench
      command=("${path[$program]}" --benchmark_filter="$part" --benchmark_out_format=json
        --benchmark_out="$logs/$stage.$(tr -c 'a-z0-9_\n' _ <<<"$part").json")
      ;;
  esac
}

# The time that a stage may take: its share, or with --only its part of a call's time.
limit() { if [ -n "$only" ]; then echo $((share[$1] * call_seconds / selected)); else echo "${share[$1]}"; fi; }

stage() {
  local stage=$1 seconds
  seconds=$(limit "$1")
  case $stage in
    tests) mapfile -t parts < <(suites .) && each tests "$seconds" "${parts[@]}" ;;
    nccl)
      if [ -n "${path[tests_nccl]:-}" ]; then each nccl "$seconds" all; else skip nccl "there is no NCCL on this machine"; fi
      ;;
    memcheck | racecheck)
      sanitizer=$(command -v compute-sanitizer || ls /usr/local/cuda/bin/compute-sanitizer 2>/dev/null || true)
      local which='^Device.*/1\.'
      [ "$stage" = memcheck ] || which='^Device(LayerNorm|BatchNorm|Contrastive|Attention|Tokens|Update)/1\.'
      if [ -z "$sanitizer" ]; then
        skip "$stage" "compute-sanitizer is not installed"
      else
        mapfile -t parts < <(suites "$which") && each "$stage" "$seconds" "${parts[@]}"
      fi
      ;;
    ncu)
      ncu=$(command -v ncu || ls /usr/local/cuda/bin/ncu 2>/dev/null || true)
      if [ -z "$ncu" ]; then skip ncu "ncu is not installed"; else each ncu "$seconds" "${!profiled[@]}"; fi
      ;;
    kernels) each kernels "$seconds" '-^ceiling|^linear|^attention' ;;
    products) each products "$seconds" '^linear_forward' '^linear_input' '^linear_weight' ;;
    attention) each attention "$seconds" '^attention_forward' '^attention_backward' ;;
    step) each step "$seconds" 'small_16/256' 'base_16/256' ;;
    step_peer) each step_peer "$seconds" 'base_16/256' ;;
    step_large) each step_large "$seconds" 'large_16/256' 'huge_14/256' 'large_16_recomputed/256' 'huge_14_recomputed/256' ;;
    step_most) each step_most "$seconds" 'base_16/largest' 'huge_14/largest' 'large_16/largest' 'small_16/largest' ;;
    peer | compiled | tuned)
      if "$python" -c 'import sys, torch; sys.exit(not torch.cuda.is_available())' 2>/dev/null; then
        each "$stage" "$seconds" steps
      else
        skip "$stage" "$python has no PyTorch that sees the device"
      fi
      ;;
    pretrain | longer)
      if [ -d "$data" ]; then
        each "$stage" "$seconds" run
      else
        skip "$stage" "there is no folder $data; --data says where Fashion-MNIST is"
      fi
      ;;
  esac
}

if [ -n "$only" ]; then calls=(0) stages_of[0]=$only; elif [ -n "$call" ]; then calls=("$call"); else calls=(1 2 3); fi
for number in "${calls[@]}"; do
  rm -rf "$logs"
  mkdir "$logs"
  {
    date -u +%FT%TZ
    nvidia-smi
    nvidia-smi --query-gpu=name,driver_version,memory.total,clocks.max.sm,power.limit --format=csv
    uname -sr
    nproc
    git log -1 --format='commit %H' 2>/dev/null || true
  } >"$logs/machine.txt" 2>&1 || true
  each ceilings 20 '^ceiling'
  for one in ${stages_of[$number]}; do stage "$one"; done
  /usr/bin/env python3 bench/gpu_summary.py "$work" | tee "$work/results.md"
  archive
done
if [ $failed -ne 0 ]; then
  echo "Some stages failed; the archives in $out have their output."
  exit 3
fi
