#!/usr/bin/env bash
# The whole path on the GPUs of one host: head with a token, doctor, `ss4rec submit train`, `submit evaluate`, result.json;
# then the head is ended by its process id. Also runs on CPUs (WORKERS 2, 3 CPUs or more).
#
#   scripts/two_gpu_path.sh DATA OUT [OPTION ...]
#
#   DATA     a prepared folder (ss4rec data prepare)
#   OUT      where the runs, logs and summary go
#   OPTION   more options of `train`, as in --preset production --set train.epochs=3
#   PYTHON (python3), WORKERS (2), SS4REC_CPUS (all), SS4REC_PORT (26379), SS4REC_DASHBOARD_PORT (8265)
set -euo pipefail

die() { printf '%s\n' "two_gpu_path: error: $*" >&2; exit 1; }
[ $# -ge 2 ] || die "usage: scripts/two_gpu_path.sh DATA OUT [OPTION ...]"
root=$(cd "$(dirname "$0")/.." && pwd)
data=$(realpath "$1")
mkdir -p "$2"
out=$(realpath "$2")
shift 2
WORKERS=${WORKERS:-2}
PYTHON=$(command -v "${PYTHON:-python3}") || die "no python3"
url=http://127.0.0.1:${SS4REC_DASHBOARD_PORT:-8265}

# Neither ray nor ss4rec has to be installed: it is enough that Python finds them. A job calls `python`.
tools=$(mktemp -d)
shim() { printf '#!/bin/sh\nexec "%s" %s "$@"\n' "$PYTHON" "$2" >"$tools/$1" && chmod +x "$tools/$1"; }
shim python ""
shim ray "-m ray.scripts.scripts"
shim ss4rec "-m ss4rec.cli"
export PATH=$tools:$PATH PYTHONPATH=$root${PYTHONPATH:+:$PYTHONPATH}
RAY_AUTH_TOKEN=$(head -c 32 /dev/urandom | od -An -tx1 | tr -d ' \n')
export RAY_AUTH_TOKEN RAY_AUTH_MODE=token RAY_USAGE_STATS_ENABLED=0 SS4REC_STATE=$tools/head

finish() {
  "$root/cluster/local.sh" status >/dev/null && "$root/cluster/local.sh" stop
  rm -rf "$tools"
}
trap finish EXIT

step() { printf '\n== %s (%s s)\n' "$*" "$SECONDS"; }
{
  step "head"
  "$root/cluster/local.sh" start
  step "doctor"
  ss4rec doctor --address "$url" --cluster --storage "$out" --workers "$WORKERS" || echo "doctor: exit code $?"
  step "submit train"
  ss4rec submit train --address "$url" -- --data "$data" --storage "$out" --name two-gpus --workers "$WORKERS" \
    --set tracking.wandb=disabled "$@"
  step "result.json"
  cat "$out/two-gpus/result.json"
  step "submit evaluate"
  gpu=()
  if nvidia-smi -L >/dev/null 2>&1; then gpu=(--gpu); fi
  ss4rec submit evaluate --address "$url" -- --run "$out/two-gpus" --data "$data" --workers "$WORKERS" "${gpu[@]}"
  step "done"
} 2>&1 | tee "$out/two_gpu_path.log"
