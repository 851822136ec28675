#!/bin/sh
# Train on all GPUs of this machine (or, without one, in two processes on its CPU):
#   scripts/launch/one_node.sh -m resnet50_lasilu -d data/imagenet -r imagenet_resnet -o runs/resnet50_lasilu
# Options are those of `layeract train`. With --resume, the same command goes on with a run that died.
set -eu
PROCESSES=${PROCESSES:-$(python -c "import torch; print(torch.accelerator.device_count() or 2)")}
exec torchrun --standalone --nproc-per-node "$PROCESSES" "$(dirname "$0")/../train.py" "$@"
