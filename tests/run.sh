#!/usr/bin/env bash
# Builds and runs all tests: ./tests/run.sh [--quick]. --quick leaves the sanitizers out.
set -euo pipefail
cd "$(dirname "$0")/.."
. cmake/dependencies.sh
need_packages "the tests" g++ cmake ninja-build ccache clang-14 clang-format-14 clang-tidy-14 libeigen3-dev libxtensor-dev \
  libfmt-dev libgtest-dev libgmock-dev libbenchmark-dev nlohmann-json3-dev libxxhash-dev libcli11-dev zlib1g-dev libpng-dev \
  libjpeg62-turbo-dev libwebp-dev libtiff-dev libdnnl-dev libopenblas-dev dataset-fashion-mnist python3 \
  libopenmpi-dev openmpi-bin strace

# Programs have one encoder, and on machines other than the CPU in float one objective, since all go the same way there.
programs=(-DTESSERA_ARCHS=vit_tiny -DTESSERA_CUDA_ARCHS=80-real)
for machine in MpiCpu Cuda NcclCuda; do
  programs+=("-DTESSERA_OBJECTIVES_$machine=moco_v3" "-DTESSERA_STOP_GRAD_CONV1_$machine=OFF")
done
programs+=(-DTESSERA_OBJECTIVES_CpuBf16=moco_v3 -DTESSERA_OBJECTIVES_MpiCpuBf16=)
times=() options=("${programs[@]}" -DTESSERA_SANITIZED_TESTS=ON)
stage() {
  local name=$1 start=$SECONDS
  shift
  echo "== $name"
  "$@"
  times+=("$(printf '%5d s  %s' $((SECONDS - start)) "$name")")
}
configure_and_build() {
  cmake --preset "$1" "${options[@]}" >"build-$1.log" 2>&1 || { cat "build-$1.log"; exit 1; }
  grep 'tessera:' "build-$1.log" || true
  rm "build-$1.log"
  cmake --build --preset "$1" "${@:2}" -- --quiet
}

if [ "${1:-}" != "--quick" ]; then
  stage "build with AddressSanitizer and UndefinedBehaviorSanitizer" \
    configure_and_build asan --target sanitized_tests
  stage "tests with AddressSanitizer and UndefinedBehaviorSanitizer" \
    ctest --preset asan -j "$(nproc)" -R '^((core|cpu|data|docs|io|optim|train|programs|fuzz)/|(comm|emulated)/[A-Z])' \
    --output-on-failure --progress
  stage "build with ThreadSanitizer" configure_and_build tsan \
    --target tests_threads tests_comm tests_ranks
  stage "tests with ThreadSanitizer" \
    ctest --preset tsan -j "$(nproc)" -R '^(threads|comm|ranks)/[A-Z]' --output-on-failure
  # What the sanitizers have seen is not built again.
  options=("${programs[@]}" -DTESSERA_SANITIZED_TESTS=OFF)
fi
stage "build" configure_and_build dev
stage "tests" ctest --preset dev -j "$(nproc)" --output-on-failure
printf '%s\n' "${times[@]}"
