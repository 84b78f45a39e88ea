#!/usr/bin/env bash
# include_direction.sh COMPILER INCLUDE: includes point one way, core <- (cpu, cuda) <- comm <- nn <- (embed, position) <- models
# <- ssl <- train, and data, io and eval do not know train.
set -euo pipefail
cd "$2/tessera"
status=0
forbid() {
  local from=$1
  shift
  for to in "$@"; do
    if grep -rn "#include \"tessera/$to/" "$from"; then
      echo "$from must not include $to"
      status=1
    fi
  done
}
forbid core cpu cuda comm nn embed position models ssl optim data eval io train
forbid cpu cuda nn embed position models ssl optim data eval io train comm
forbid comm nn embed position models ssl optim data eval io train cpu
forbid nn embed position models ssl optim data eval io train cpu cuda
forbid embed models ssl optim data eval io train cpu cuda
forbid position models ssl optim data eval io train cpu cuda
forbid models ssl optim data eval io train cpu cuda
forbid ssl optim data eval io train cpu cuda
forbid cuda cpu nn embed position models ssl optim eval io train comm
forbid data train cuda
forbid io train
forbid eval train
exit $status
