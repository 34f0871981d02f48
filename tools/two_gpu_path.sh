#!/usr/bin/env bash
# The whole path on the GPUs of one host: head with a token, doctor, `ss4rec submit train`, `submit evaluate`, result.json;
# then the head is ended by its process id. Also runs on CPUs (WORKERS 2, 3 CPUs or more). A step that fails or takes longer
# than STEP_S ends it with that step's last lines.
#
#   tools/two_gpu_path.sh DATA OUT [OPTION ...]
#
#   DATA     a prepared folder (ss4rec data prepare)
#   OUT      where the runs, logs and summary go
#   OPTION   more options of `train`, as in --preset production --set train.epochs=3
#   PYTHON (python3), WORKERS (2), SS4REC_CPUS (all), SS4REC_PORT (26379), SS4REC_DASHBOARD_PORT (8265)
#   DOCTOR=no (yes) skips doctor, NAME (two-gpus) is that of the run, STEP_S (300) the seconds a step may take
set -euo pipefail

die() { printf '%s\n' "two_gpu_path: error: $*" >&2; exit 1; }
[ $# -ge 2 ] || die "usage: tools/two_gpu_path.sh DATA OUT [OPTION ...]"
root=$(cd "$(dirname "$0")/.." && pwd)
data=$(realpath "$1")
[ -f "$data/manifest.json" ] || die "$data is no prepared folder (ss4rec data prepare)"
mkdir -p "$2"
out=$(realpath "$2")
shift 2
WORKERS=${WORKERS:-2} NAME=${NAME:-two-gpus}
[ ! -e "$out/$NAME" ] || die "$out/$NAME is there already and would be continued; give another OUT or NAME"
PYTHON=$(command -v "${PYTHON:-python3}") || die "no python3"
url=http://127.0.0.1:${SS4REC_DASHBOARD_PORT:-8265}

# Neither ray nor ss4rec has to be installed: it is enough that Python finds them. A job calls `python`.
tools=$(mktemp -d /tmp/ss4rec-path-XXXXXX)
shim() { printf '#!/bin/sh\nexec "%s" %s "$@"\n' "$PYTHON" "$2" >"$tools/$1" && chmod +x "$tools/$1"; }
shim python ""
shim ray "-m ray.scripts.scripts"
shim ss4rec "-m ss4rec.cli"
export PATH=$tools:$PATH PYTHONPATH=$root${PYTHONPATH:+:$PYTHONPATH}
RAY_AUTH_TOKEN=$(head -c 32 /dev/urandom | od -An -tx1 | tr -d ' \n')
# A Ray folder of its own: the logs of a failure are those of this head. Sockets have short names.
export RAY_AUTH_TOKEN RAY_AUTH_MODE=token RAY_USAGE_STATS_ENABLED=0 SS4REC_STATE=$tools/head RAY_TMPDIR=$tools/r

log=$out/two_gpu_path.log
step=start
mkdir "$RAY_TMPDIR"
: >"$log"
say() { printf '%s\n' "$@" | tee -a "$log"; }

finish() {
  local code=$?
  if [ "$code" != 0 ]; then
    say "" "two_gpu_path: FAILED in step '$step' after $SECONDS s (exit code $code); the end of its logs:"
    for file in "$out/$step.log" "$SS4REC_STATE/head.log" "$tools"/r/ray/session_latest/logs/{job-driver-*,worker-*.err}; do
      if [ -s "$file" ]; then { printf '\n-- %s\n' "$(basename "$file")"; tail -n 15 "$file" | cut -c1-300; } | tee -a "$log"; fi
    done
  fi
  if "$root/cluster/local.sh" status >/dev/null; then "$root/cluster/local.sh" stop; fi
  rm -rf "$tools"
  say "two_gpu_path: ended after $SECONDS s with exit code $code"
}
trap finish EXIT

# Run one step, into a log of its own and the common one.
run() {
  step=$1
  shift
  say "" "== $step ($SECONDS s)"
  timeout "${STEP_S:-300}" "$@" 2>&1 | tee "$out/$step.log" | tee -a "$log"
}

# Everything a worker imports is read from disk while the head starts, not later by each of them in turn.
"$PYTHON" -c "import torch, ray.data, ray.train.torch, ss4rec.train.ray_backend" >/dev/null &
run head "$root/cluster/local.sh" start
wait $! || die "the environment is not complete: what is above could not be imported"
[ "${DOCTOR:-yes}" = no ] || run doctor ss4rec doctor --address "$url" --cluster --storage "$out" --workers "$WORKERS"
run train ss4rec submit train --address "$url" -- --data "$data" --storage "$out" --name "$NAME" --workers "$WORKERS" \
  --set tracking.wandb=disabled "$@"
run result "$PYTHON" - "$out/$NAME" <<'PROGRAM'
import json, sys
from pathlib import Path

folder = Path(sys.argv[1])
result, record = (json.loads((folder / name).read_text()) for name in ("result.json", "record.json"))
print("record.json:", {name: record[name] for name in ("workers", "backends", "versions")})
print("result.json:", result["training"])
for setting in result["test"]["model"]["settings"]:
    print("result.json:", setting["seen"], setting["target_time"], setting["metrics"])
PROGRAM
gpu=()
if nvidia-smi -L >/dev/null 2>&1; then gpu=(--gpu); fi
run evaluate ss4rec submit evaluate --address "$url" -- --run "$out/$NAME" --data "$data" --workers "$WORKERS" "${gpu[@]}"
