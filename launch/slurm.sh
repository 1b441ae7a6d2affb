#!/usr/bin/env bash
# For Slurm: a Ray cluster of the job's nodes, the learner on the first, a worker on each other core.
#
#   sbatch launch/slurm.sh [launch's flags]
#   sbatch --nodes=16 launch/slurm.sh --config_file=paper.gin --train_log_dir=/shared/runs/paper
#
# Submit it again after a time limit or a crash: the run goes on from its last checkpoint. Run it
# from a folder that all nodes share.
#SBATCH --job-name=unsup-rule
#SBATCH --nodes=4
#SBATCH --ntasks-per-node=1
#SBATCH --cpus-per-task=16
#SBATCH --exclusive
#SBATCH --time=24:00:00
#SBATCH --requeue
# Time to save: launch takes the signal for Ctrl-C.
#SBATCH --signal=B:INT@120
set -euo pipefail
umask 077

port=6379
# Not `| head -n 1`, which may end scontrol by SIGPIPE and so this script.
nodes=$(scontrol show hostnames "$SLURM_JOB_NODELIST")
head_node=${nodes%%$'\n'*}
head_ip=$(srun --nodes=1 --ntasks=1 --nodelist="$head_node" hostname --ip-address | awk '{print $1}')

# A token for this job alone, in the user's home, which the nodes share. The umask makes it 0600.
token="$HOME/.unsup-rule-token-$SLURM_JOB_ID"
head -c 32 /dev/urandom | od -An -tx1 | tr -d ' \n' > "$token"
trap 'rm -f "$token"' EXIT
export RAY_AUTH_MODE=token RAY_AUTH_TOKEN_PATH="$token" RAY_USAGE_STATS_ENABLED=0 JAX_PLATFORMS=cpu

# One core of the first node is the learner's.
srun --nodes=1 --ntasks=1 --nodelist="$head_node" ray start --head --block \
  --node-ip-address="$head_ip" --port="$port" --num-cpus="$((SLURM_CPUS_PER_TASK - 1))" \
  --include-dashboard=false &
until (: < "/dev/tcp/$head_ip/$port") 2> /dev/null; do sleep 1; done

others=$((SLURM_JOB_NUM_NODES - 1))
if [ "$others" -gt 0 ]; then
  srun --nodes="$others" --ntasks="$others" --exclude="$head_node" ray start --block \
    --address="$head_ip:$port" --num-cpus="$SLURM_CPUS_PER_TASK" &
fi

flags=("$@")
if [ "${#flags[@]}" -eq 0 ]; then
  flags=(--config_file=paper.gin --train_log_dir=runs/paper)
fi
workers=$((SLURM_JOB_NUM_NODES * SLURM_CPUS_PER_TASK - 1))
unsup-rule launch --address="$head_ip:$port" --token_file="$token" --workers="$workers" \
  "${flags[@]}" &
launch=$!
# A signal ends the first wait, the second waits for the end of saving.
trap 'kill -INT "$launch"' INT
wait "$launch" || wait "$launch"
