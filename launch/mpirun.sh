#!/bin/bash
# Eight processes by Open MPI, here or on the hosts of a file:
#
#   launch/mpirun.sh 8 --workdir=runs/mine
#   launch/mpirun.sh 8 --hostfile hosts -- --workdir=/shared/runs/mine
#
# What stands before `--` is mpirun's, the rest train.py's. JAX reads coordinator, process count
# and id from what mpirun sets, and gives each process the GPU of its local rank.
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
# Unbound: by default each process would get one core, where XLA wants many.
exec mpirun -n "$processes" --bind-to none ${options[@]+"${options[@]}"} \
  python train.py --config configs/default.py --distributed "$@"
