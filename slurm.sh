#!/bin/bash
# Reproduce a paper under Slurm, on any number of machines:
#
#   sbatch --nodes=2 --gpus-per-node=8 slurm.sh resnet EXPERIMENT=imagenet-resnet50 ARGS="--data-dir /datasets"
#
# Submit it from the repository, on a file system that all machines see. A job that is stopped, for its time or for another job,
# saves a checkpoint first; the same line goes on from there, and Slurm itself submits it again after a preemption.
#
#SBATCH --job-name=reproduce
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=1
#SBATCH --exclusive
#SBATCH --signal=TERM@120
#SBATCH --requeue
#SBATCH --open-mode=append

set -euo pipefail
paper=${1:?name a paper: sbatch slurm.sh resnet}
shift
hosts=$(scontrol show hostnames "$SLURM_JOB_NODELIST") # one a line
MASTER=${hosts%%$'\n'*}:$((20000 + SLURM_JOB_ID % 20000))
make setup "$@" # once, before all machines want it
exec srun bash -c 'exec make "reproduce-$0" NODES="$SLURM_NNODES" NODE_RANK="$SLURM_NODEID" MASTER="$1" "${@:2}"' "$paper" "$MASTER" "$@"
