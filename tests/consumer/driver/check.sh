#!/usr/bin/env bash
# check.sh installed|subdirectory SOURCE BUILD COMPILER
set -euo pipefail
way=$1 source=$2 build=$3 compiler=$4
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
options=(-DCMAKE_CXX_COMPILER="$compiler" -DCMAKE_BUILD_TYPE=None)
if [ "$way" = installed ]; then
  cmake --install "$build" --prefix "$folder/prefix" >/dev/null
  options+=(-DCMAKE_PREFIX_PATH="$folder/prefix")
else
  options+=(-DTESSERA_SUBDIRECTORY="$source")
fi
cmake -S "$source/tests/consumer/project" -B "$folder/build" -G Ninja "${options[@]}" >/dev/null
cmake --build "$folder/build"
"$folder/build/consumer"
if [ -x "$folder/build/consumer_cuda" ]; then "$folder/build/consumer_cuda"; fi
