#!/usr/bin/env bash
# Meta-trains on this machine with a worker on each core, on the small problem of `make train`.
# Run it again after Ctrl-C or a crash: it goes on.
#
#   launch/local.sh [DIR]
set -euo pipefail
cd "$(dirname "$0")/.."

WORKERS=$(getconf _NPROCESSORS_ONLN)

# While a worker computes one gradient, each of the others delivers one: so theirs are up to about
# WORKERS updates old. run_train.staleness says how old one may be.
exec "${UNSUP_RULE:-.venv/bin/unsup-rule}" launch \
  --config_file=gin/laptop_launch.gin \
  --gin_bindings="run_train.staleness = $((2 * WORKERS))" \
  --workers="$WORKERS" \
  --train_log_dir="${1:-runs/local}"
