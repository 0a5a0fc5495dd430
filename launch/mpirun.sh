#!/bin/bash
# Starts eight processes by Open MPI, on this machine or on the hosts of a file:
#
#   launch/mpirun.sh 8 --workdir=runs/mine
#   launch/mpirun.sh 8 --hostfile hosts -- --workdir=/shared/runs/mine
#
# Options before `--` are mpirun's, the rest are train.py's. JAX reads the coordinator, the number
# of processes and the process id from mpirun's environment, and assigns GPUs by the local rank.
# Relative paths are those of the checkout. Ctrl-C, or a SIGTERM to mpirun, saves and ends; the same command resumes.
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

allowed=${OMPI_ALLOW_RUN_AS_ROOT:-}${OMPI_ALLOW_RUN_AS_ROOT_CONFIRM:-}
if [ "$(id -u)" = 0 ] && [ "$allowed" != 11 ] &&
  [[ " ${options[*]-} " != *" --allow-run-as-root "* ]]; then
  echo "root: mpirun refuses to run as root; be another user, or set" \
    "OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1" >&2
  exit 2
fi

cd "$(dirname "$0")/.."
# By default mpirun binds each process to one core, but XLA uses many; and it kills the processes
# one second after it passed a signal on.
exec mpirun -n "$processes" --bind-to none --mca odls_base_sigkill_timeout 10 \
  ${options[@]+"${options[@]}"} \
  python train.py --config configs/default.py --config.fallback_dataset= --distributed "$@"
