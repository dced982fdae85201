#!/usr/bin/env bash
# Train and measure on several machines under Slurm. The runs directory must be on a file system that all of
# them share. One task a node: torchrun starts the ranks. Submit with:  sbatch slurm.sh gpt-345m --tp 2
#SBATCH --job-name=bmp-train
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=64
#SBATCH --time=01:00:00
set -euo pipefail

runs=${BMP_RUNS:-$HOME/runs}
ranks_per_node=${BMP_RANKS_PER_NODE:-8}
nodes=${SLURM_JOB_NUM_NODES:-1}

hosts=$(scontrol show hostnames "$SLURM_JOB_NODELIST")
head=${hosts%%$'\n'*}

# Everything is checked here, before a node waits for another one.
run=$(bmp train "$@" --nnodes "$nodes" --nproc "$ranks_per_node" --runs-dir "$runs" --prepare --quiet)

# A store that outlives an attempt still holds the dead ranks' addresses (torch 2.13).
export TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1
export OMP_NUM_THREADS=$((${SLURM_CPUS_PER_TASK:-64} / ranks_per_node))

ended=0
srun torchrun \
    --nnodes="$nodes" \
    --nproc-per-node="$ranks_per_node" \
    --max-restarts=3 \
    --rdzv-backend=c10d \
    --rdzv-id="$SLURM_JOB_ID" \
    --rdzv-endpoint="$head:29500" \
    -m training.rank.worker "$run/plan.json" || ended=$?

bmp train finish "$run"
exit "$ended"
