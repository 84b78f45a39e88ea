#!/usr/bin/env bash
# Pre-trains a small Vision Transformer with MoCo v3 on Fashion-MNIST, on this machine's processor.
# Flags are handed to `pretrain`: --data FOLDER takes other IDX files, --out FOLDER another place for the results, and
# --overwrite replaces those of an earlier start.
set -euo pipefail
cd "$(dirname "$0")/.."
. cmake/dependencies.sh
need_packages "the quickstart" g++ cmake ninja-build libeigen3-dev libxtensor-dev libfmt-dev nlohmann-json3-dev \
  libxxhash-dev libcli11-dev zlib1g-dev libpng-dev libjpeg62-turbo-dev libdnnl-dev dataset-fashion-mnist

echo "Building (about a minute, once)"
log=$(mktemp)
trap 'rm -f "$log"' EXIT
build=build/quickstart
{ cmake --preset release -B "$build" -DTESSERA_BUILD_BENCH=OFF -DTESSERA_ARCHS=vit_tiny -DTESSERA_OBJECTIVES=moco_v3 \
  -DTESSERA_STOP_GRAD_CONV1=OFF &&
  cmake --build "$build" --target pretrain probe extract_features; } >"$log" 2>&1 || { cat "$log"; exit 1; }

data=(--data /usr/share/datasets/fashion-mnist
  --class-names T-shirt,Trouser,Pullover,Dress,Coat,Sandal,Shirt,Sneaker,Bag,Boot)
for flag in "$@"; do [[ $flag == --data* ]] && data=(); done
exec "$build/examples/pretrain" "${data[@]}" --arch vit_tiny \
  --epochs 5 --warmup-epochs 0.5 --batch-size 128 --optimizer adamw --lr 6e-3 --weight-decay 0.1 \
  --moco-m 0.95 --moco-m-cos --moco-t 0.1 --crop-min 0.7 \
  --out runs/quickstart "$@"
