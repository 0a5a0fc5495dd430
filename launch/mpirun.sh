#!/bin/bash
# Starts eight processes by Open MPI, on this machine or on the hosts of a file:
#
#   launch/mpirun.sh 8 --workdir=runs/mine
#   launch/mpirun.sh 8 --hostfile hosts -- --workdir=/shared/runs/mine
#
# Options before `--` are mpirun's, the rest are train.py's. JAX reads the coordinator, the number
# of processes and the process id from mpirun's environment, and assigns GPUs by the local rank.
set -euo pipefail

processes=${1:?usage: launch/mpirun.sh PROCESSES [MPIRUN OPTIONS --] [TRAIN.PY FLAGS]}
shift
options=()
if [[ " $* " == *" -- "* ]]; then
  while [ "$1" != -- ]; do
    options+=("$1")
    shift
  done
  shift
fi

cd "$(dirname "$0")/.."
# By default mpirun binds each process to one core, but XLA uses many.
exec mpirun -n "$processes" --bind-to none ${options[@]+"${options[@]}"} \
  python train.py --config configs/default.py --distributed "$@"
