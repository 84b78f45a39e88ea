#!/usr/bin/env bash
# pretrain.sh CASE PRETRAIN: runs the program PRETRAIN; CASE is one of the functions below.
. "$(dirname "$0")/programs.sh"
case=$1 program=$2
tiny=(--stop-grad-conv1 --moco-dim 128 --moco-mlp-dim 512 --batch-size 16 --epochs 2 --warmup-epochs 0.5 --threads 1)
pretrain=("$program" --data data "${tiny[@]}" --out run)
checkpoint=run/checkpoint.safetensors

# Results of an earlier run, which a run that fails must not touch.
keep_results() {
  mkdir run
  for name in checkpoint.safetensors metrics.jsonl features.npy report.html; do echo "$name" >"run/$name"; done
}

flags() {
  keep_results
  refuses '--data is required' "$program"
  for flag in --unknown --batch; do refuses "$flag" "${pretrain[@]}" "$flag" 3; done
  for flag in --batch-size --epochs --lr --seed --threads --knn-every; do
    refuses "$flag|many" "${pretrain[@]}" "$flag" many
    refuses "$flag" "${pretrain[@]}" "$flag"
  done
  for flag in --batch-size --workers --threads --knn-every --knn-bank --save-every --moco-dim --seed; do
    refuses "$flag|99999999999999999999" "${pretrain[@]}" "$flag" 99999999999999999999
    refuses "$flag|-4" "${pretrain[@]}" "$flag" -4
  done
  for flag in --lr --weight-decay --epochs --warmup-epochs --moco-m --moco-t --crop-min; do
    for value in nan inf -1; do refuses "$flag|$value" "${pretrain[@]}" "$flag" "$value"; done
  done
  while read -r flag value; do refuses "$flag|$value" "${pretrain[@]}" "$flag" "$value"; done <<'END'
--batch-size 1
--batch-size 0
--batch-size 121
--batch-size 2000000000
--epochs 0
--epochs 0.01
--epochs 1e+300
--warmup-epochs 2
--moco-m 1.5
--moco-t 0
--moco-t 1e-30
--crop-min 0
--crop-min 1.5
--workers 0
--workers 2000000000
--threads 2000000000
--knn-bank 0
--arch vit_huge
--optimizer adam
--moco-dim 256
--moco-mlp-dim 4096
END
}

data() {
  keep_results
  refuses 'nowhere/train-images-idx3-ubyte' "${pretrain[@]}" --data nowhere
  files data sound
  for name in {train,t10k}-{images-idx3,labels-idx1}-ubyte; do
    rm -rf damaged && cp -r sound damaged && rm "damaged/$name"
    refuses "damaged/$name" "${pretrain[@]}" --data damaged
    head -c 30 "sound/$name" >"damaged/$name"
    refuses "damaged/$name|ends after" "${pretrain[@]}" --data damaged
    head -c 3 "sound/$name" >"damaged/$name"
    refuses "damaged/$name|too short" "${pretrain[@]}" --data damaged
    cat "sound/$name" <(echo more) >"damaged/$name"
    refuses "damaged/$name|goes on" "${pretrain[@]}" --data damaged
    rm "damaged/$name" && mkdir "damaged/$name"
    refuses "damaged/$name|not a regular file" "${pretrain[@]}" --data damaged
    rmdir "damaged/$name" && gzip -c "sound/$name" >packed
    for cut in 20 12 8 4; do
      head -c -$cut packed >"damaged/$name.gz"
      refuses "damaged/$name.gz|ends in the middle" "${pretrain[@]}" --data damaged
    done
    { head -c -8 packed; head -c 8 /dev/zero; } >"damaged/$name.gz"
    refuses "damaged/$name.gz|damaged" "${pretrain[@]}" --data damaged
  done
  files data none 120 0
  refuses 'none/t10k-images-idx3-ubyte|size 0' "${pretrain[@]}" --data none
  files data other 120 40 28 20
  refuses 'other|28 x 28|20 x 20' "${pretrain[@]}" --data other
  cp -r sound mixed && cp data/t10k-labels-idx1-ubyte mixed/train-labels-idx1-ubyte
  refuses 'mixed/train-labels-idx1-ubyte|40 labels|120 images' "${pretrain[@]}" --data mixed
}

out() {
  echo text >file
  refuses '--out file' "${pretrain[@]}" --out file
  refuses '--out file/run' "${pretrain[@]}" --out file/run
  mkdir -p metrics/metrics.jsonl checkpoint/checkpoint.safetensors/full
  refuses 'metrics/metrics.jsonl' "${pretrain[@]}" --out metrics
  refuses 'checkpoint/checkpoint.safetensors' "${pretrain[@]}" --out checkpoint
  [[ -z $(find . -name '*.tmp') ]] || failed "a temporary file is left"
}

resume() {
  pretrain+=(--epochs 0.2)  # one step
  pretrain+=(--warmup-epochs 0)
  succeeds "${pretrain[@]}"
  pretrain+=(--resume other)
  refuses 'other|No such file' "${pretrain[@]}"
  refuses 'run|not a regular file' "${pretrain[@]}" --resume run
  : >other
  refuses 'other|0 bytes' "${pretrain[@]}"
  head -c -1 "$checkpoint" >other
  refuses 'other|its tensors take' "${pretrain[@]}"
  { printf '\xff\xff\xff\0\0\0\0\0'; tail -c +9 "$checkpoint"; } >other
  refuses 'other|a header of 16777215 bytes' "${pretrain[@]}"
  local name=momentum_encoder.head.0.weight
  files checkpoint "$checkpoint" other rename $name else
  refuses 'other|else' "${pretrain[@]}"
  files checkpoint "$checkpoint" other add extra
  refuses 'other|extra' "${pretrain[@]}"
  files checkpoint "$checkpoint" other retype $name I32
  refuses "other|$name|I32|F32" "${pretrain[@]}"
  files checkpoint "$checkpoint" other reshape $name '[256, 192]'
  refuses "other|$name|[256, 192]|[512, 96]" "${pretrain[@]}"
  for key in arch optimizer seed batch_size step; do
    files checkpoint "$checkpoint" other drop $key
    refuses "other|$key" "${pretrain[@]}"
    files checkpoint "$checkpoint" other set $key 9999
    refuses "other|$key|9999" "${pretrain[@]}"
  done
  pretrain+=(--resume "$checkpoint")
  refuses "$checkpoint|optimizer|adamw|lars" "${pretrain[@]}" --optimizer lars
  refuses "$checkpoint|seed|1" "${pretrain[@]}" --seed 1
  refuses "$checkpoint|batch_size|16|8" "${pretrain[@]}" --batch-size 8
  refuses "$checkpoint|patch_embed" "${pretrain[@]}" --stop-grad-conv1=false
  files data others && files data others 120 40 28 28 7
  printf '\0' | dd of=others/train-images-idx3-ubyte bs=1 seek=100 conv=notrunc status=none
  refuses "$checkpoint|normalization" "${pretrain[@]}" --data others
  succeeds "${pretrain[@]}"
}

# Waits until the program that runs in the background has written a line with the text $1 to `output`.
wait_for() {
  while ! grep -qs "$1" output; do
    kill -0 "$pid" || failed "the program has ended without '$1'"
    sleep 0.01
  done
}

# in_background PROGRAM ARGUMENTS...
in_background() {
  command=("$@")
  rm -f output
  "$@" >output 2>errors &
  pid=$!
}

# Sends the signal $1 once the output has the text $2. The program must end with a checkpoint and say how to resume.
stop() {
  wait_for "$2"
  kill "-$1" "$pid"
  local status=0
  wait "$pid" || status=$?
  [[ $status == 85 ]] || failed "exit status $status after SIG$1, expected 85"
  says "stopped by a signal after step [0-9]+; the same command with --resume $checkpoint continues"
}

# with_small_files KIB PROGRAM ARGUMENTS...: a write beyond that size fails, as on a full disk.
with_small_files() { (trap '' XFSZ && ulimit -f "$1" && exec "${@:2}"); }

full_disk() {
  in_background "${pretrain[@]}"
  stop TERM 'step 1/'
  cp -r run before
  local resume=(--resume "$checkpoint") status=0
  refuses "run/metrics.jsonl" with_small_files 0 "${pretrain[@]}" "${resume[@]}"
  run with_small_files 1000 "${pretrain[@]}" "${resume[@]}" || status=$?
  [[ $status == 2 && $(wc -l <errors) == 1 ]] || failed "exit status $status"
  grep -qF "$checkpoint" errors || failed "the message does not name the checkpoint"
  same before/checkpoint.safetensors "$checkpoint"
  [[ $(ls run) == $(ls before) ]] || failed "run/ holds other files: $(ls run)"
  refuses 'new/metrics.jsonl' with_small_files 0 "${pretrain[@]}" --out new
}

signals() {
  succeeds "${pretrain[@]}" --out whole
  for signal in INT TERM USR1; do
    in_background "${pretrain[@]}"
    stop $signal 'step 1/'
    succeeds "${pretrain[@]}" --resume "$checkpoint"
    same whole/checkpoint.safetensors "$checkpoint"
    same whole/features.npy run/features.npy
    cmp -s <(files metrics whole/metrics.jsonl) <(files metrics run/metrics.jsonl) || failed "metrics differ"
    rm -r run
  done

  files data data 120 2000  # a long monitor
  in_background "${pretrain[@]}"
  stop TERM 'parameters trained'
  says 'after step 0'
  cp "$checkpoint" first
  in_background "${pretrain[@]}"
  wait_for 'parameters trained'
  kill -INT "$pid"
  sleep 0.05
  kill -TERM "$pid"
  local status=0
  wait "$pid" || status=$?
  [[ $status == 143 ]] || failed "exit status $status after a second signal, expected 143"
  same first "$checkpoint"
}

results() {
  succeeds "${pretrain[@]}" --workers 3 --threads 2
  says 'epoch .* step 1/14 .* images/s .* left'
  says 'k-NN accuracy 0\.[0-9]+ on 40 images'
  [[ $(files metrics run/metrics.jsonl | wc -l) == 4 ]] || failed "metrics.jsonl: $(cat run/metrics.jsonl)"
  grep -q '"step":10,.*"loss":.*"images_per_second":' run/metrics.jsonl || failed "metrics.jsonl lacks step 10"
  grep -q '</html>' run/report.html || failed "no report"
  ! grep -qi 'http' run/report.html || failed "the report refers to the network"
  succeeds "${pretrain[@]}" --out one
  same run/checkpoint.safetensors one/checkpoint.safetensors
  same run/features.npy one/features.npy
  succeeds "${pretrain[@]}" --out other --seed 1
  differ run/features.npy other/features.npy
  files data small 4 3 20 20 200
  succeeds "${pretrain[@]}" --data small --out small --batch-size 2 --knn-bank 3 --class-names Ant,Bee
  grep -q 'Ant .*Bee' small/report.html || failed "the report lacks the names of classes"
}

"$case"
