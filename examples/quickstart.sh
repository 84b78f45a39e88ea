#!/usr/bin/env bash
# Pre-trains a small Vision Transformer with MoCo v3 on this machine's processor: on Fashion-MNIST, or with --pictures as
# the first flag on the coloured drawings of Debian's openclipart-png. Other flags are handed to `pretrain`: --data FOLDER
# takes other pictures, --out FOLDER another place for the results, and --overwrite replaces those of an earlier start.
set -euo pipefail
cd "$(dirname "$0")/.."
. cmake/dependencies.sh
pictures=false package=dataset-fashion-mnist arch=vit_tiny
if [[ ${1:-} == --pictures ]]; then
  shift
  pictures=true package=openclipart-png arch=vit_tiny_64
fi
need_packages "the quickstart" g++ cmake ninja-build libeigen3-dev libxtensor-dev libfmt-dev nlohmann-json3-dev \
  libxxhash-dev libcli11-dev zlib1g-dev libpng-dev libjpeg62-turbo-dev libdnnl-dev "$package"

echo "Building (about a minute, once)"
log=$(mktemp)
trap 'rm -f "$log"' EXIT
build=build/quickstart
$pictures && build=build/quickstart-pictures
{ cmake --preset release -B "$build" -DTESSERA_BUILD_BENCH=OFF -DTESSERA_ARCHS=$arch -DTESSERA_OBJECTIVES=moco_v3 \
  -DTESSERA_STOP_GRAD_CONV1=OFF &&
  cmake --build "$build" --target pretrain probe extract_features; } >"$log" 2>&1 || { cat "$log"; exit 1; }

# The list of openclipart's pictures from 64 to 4,096 pixels, without links, in the twelve classes of 60 and more; without
# shapes, which are near copies of each other. A line: path, tab, class.
list_openclipart() {
  find /usr/share/openclipart/png/{animals,buildings,computer,food,geography,office,people,plants,recreation} \
    /usr/share/openclipart/png/{signs_and_symbols,tools,transportation} -type f -name '*.png' | LC_ALL=C sort |
    perl -ne 'chomp; open F, "<", $_; read F, $b, 24; ($s, $l) = sort { $a <=> $b } unpack "x16NN", $b;
              print "$_\t", m{png/([^/]+)/}, "\n" if $s >= 64 && $l <= 4096'
}

if $pictures; then
  flags=(--data "$build/openclipart.txt" --cache 4 --workers 2
    --epochs 50 --warmup-epochs 2 --batch-size 128 --optimizer adamw --lr 6e-3 --weight-decay 0.1
    --moco-m 0.95 --moco-m-cos --moco-t 0.1 --crop-min 0.3 --no-blur --knn-every 135 --out runs/pictures)
  list_openclipart >"$build/openclipart.txt"
else
  flags=(--data /usr/share/datasets/fashion-mnist
    --class-names T-shirt,Trouser,Pullover,Dress,Coat,Sandal,Shirt,Sneaker,Bag,Boot
    --epochs 5 --warmup-epochs 0.5 --batch-size 128 --optimizer adamw --lr 6e-3 --weight-decay 0.1
    --moco-m 0.95 --moco-m-cos --moco-t 0.1 --crop-min 0.7 --out runs/quickstart)
fi
exec "$build/examples/pretrain" --arch $arch "${flags[@]}" "$@"
