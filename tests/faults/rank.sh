#!/usr/bin/env bash
# rank.sh FOLDER VICTIM FAULT PROGRAM ARGUMENTS...: what mpirun starts for run.sh. Leaves the process id in FOLDER, and
# becomes PROGRAM; on rank VICTIM with the fault data, checkpoint or storage, if that is what FAULT names.
folder=$1 victim=$2 fault=$3
shift 3
echo $$ >"$folder/$OMPI_COMM_WORLD_RANK"
if [[ $OMPI_COMM_WORLD_RANK == "$victim" ]]; then
  case $fault in
    data) exec "$@" --data nowhere ;;
    checkpoint) exec "$@" --resume nowhere ;;
    storage) trap '' XFSZ && ulimit -f 8000 ;;  # KiB: a checkpoint is larger
  esac
fi
exec "$@"
