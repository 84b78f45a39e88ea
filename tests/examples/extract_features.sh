#!/usr/bin/env bash
# extract_features.sh PRETRAIN EXTRACT_FEATURES: features of a checkpoint are those that the run wrote.
. "$(dirname "$0")/programs.sh"
pretrain=$1 extract=("$2" --data data)
succeeds "$pretrain" --data data --stop-grad-conv1 --moco-dim 128 --moco-mlp-dim 512 --batch-size 16 --epochs 1 \
  --warmup-epochs 0 --out run
checkpoint=run/checkpoint.safetensors
extract+=(--checkpoint "$checkpoint")

succeeds "${extract[@]}"
same features.npy run/features.npy
succeeds "${extract[@]}" --split train --out train.npy
differ train.npy run/features.npy

refuses '--checkpoint is required' "$2" --data data
refuses '--unknown' "${extract[@]}" --unknown
refuses 'data/test-images-idx3-ubyte' "${extract[@]}" --split test
refuses 'nowhere/t10k-images-idx3-ubyte' "${extract[@]}" --data nowhere
refuses 'missing' "${extract[@]}" --checkpoint missing
refuses 'nowhere/features.npy' "${extract[@]}" --out nowhere/features.npy
refuses 'data' "${extract[@]}" --out data
for key in arch normalization; do
  files checkpoint "$checkpoint" other drop $key
  refuses "other|$key" "${extract[@]}" --checkpoint other
  files checkpoint "$checkpoint" other set $key unknown
  refuses "other|unknown" "${extract[@]}" --checkpoint other
done
files checkpoint "$checkpoint" other rename base_encoder.cls_token else
refuses 'other|base_encoder.cls_token' "${extract[@]}" --checkpoint other
