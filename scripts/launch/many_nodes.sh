#!/bin/sh
# Train on several machines that see one file system. Run on each of them, with the name of the first one:
#   NODES=4 HOST=node0 scripts/launch/many_nodes.sh -m resnet50_lasilu -d data/imagenet -r imagenet_resnet -o runs/first
# NODES: how many machines; HOST: one of them, where they meet; PORT: where on it (29500); PROCESSES: a machine's (8).
set -eu
exec torchrun --nnodes "$NODES" --nproc-per-node "${PROCESSES:-8}" --rdzv-backend c10d \
    --rdzv-endpoint "$HOST:${PORT:-29500}" "$(dirname "$0")/../train.py" "$@"
