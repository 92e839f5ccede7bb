#!/usr/bin/env bash
# One command a machine, the same on each but for NODE_RANK. The run folder is on a disk that all see; it was made by
#   dailies train STAGE --data … --out RUN --launcher none processes=$((NODES * PROCESSES))
# Killed machines: run it again everywhere; training goes on from the newest complete checkpoint, also with another number of machines
# (then prepare once more with the new processes=…). Afterwards the dailies command again records what the checkpoints have seen.
set -euo pipefail
: "${RUN:?folder of the run}" "${NODES:?number of machines}" "${NODE_RANK:?0 … NODES-1}" "${PROCESSES:?processes of a machine, one a GPU}"
: "${MASTER_ADDR:?name of machine 0}"
# Workers import from where this file lies and not from the current directory, which -m would put first.
here="$(cd "$(dirname "$0")/../.." && pwd)"
export PYTHONSAFEPATH=1 PYTHONPATH="$here${PYTHONPATH:+:$PYTHONPATH}"
exec torchrun --nnodes "$NODES" --node-rank "$NODE_RANK" --nproc-per-node "$PROCESSES" --rdzv-backend static \
  --master-addr "$MASTER_ADDR" --master-port "${MASTER_PORT:-29400}" -m training.worker "$RUN"
