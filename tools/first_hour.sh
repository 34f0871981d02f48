#!/usr/bin/env bash
# A newcomer's first hour, unattended: what is written here is what a stranger types, in a bare environment with the wheel.
#
#   tools/first_hour.sh [OUT]      OUT: folder of the environment, the data and the transcript (default: a temporary one)
#
#   SS4REC_WHEEL          a wheel that is built already
#   SS4REC_FIRST_ENV      an environment with ss4rec and the notebook's tools, to try the steps without installing
#   SS4REC_TORCH_INDEX    index with a CPU build of torch, if pip's own have none
#
# Writes OUT/transcript.txt and OUT/first_hour.json (minutes, steps, steps_failed, seconds of each step and to the first
# training step, MiB of the environment). A step that fails is counted and named; the script goes on, and ends with 1.
# `python -m benchmarks.newcomer hour` runs it and writes the record.
set -euo pipefail
set +e # a step that fails is counted, and the script goes on
ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
OUT=${1:-$(mktemp -d)}
mkdir -p "$OUT" && OUT=$(cd "$OUT" && pwd) || exit 2
TRANSCRIPT=$OUT/transcript.txt
STEPS=$OUT/steps.tsv
PORT=${SS4REC_PORT:-36379}
DASHBOARD=${SS4REC_DASHBOARD_PORT:-28265}
export PYTHONUNBUFFERED=1 WANDB_MODE=offline COLUMNS=100 HOME=$OUT/home
export SS4REC_PORT=$PORT SS4REC_DASHBOARD_PORT=$DASHBOARD SS4REC_STATE=$OUT/home/head
unset PYTHONPATH RAY_ADDRESS RAY_AUTH_MODE
mkdir -p "$HOME"
: >"$TRANSCRIPT"
: >"$STEPS"
cd "$OUT" || exit 2
BEGAN=$(date +%s.%N)

# step NAME COMMAND...: run it, keep what it says, its seconds and its exit code.
step() {
  local name=$1 began ended code
  shift
  printf '\n$ %s\n' "$*" | sed "s|$OUT|.|g; s|$ROOT|ss4rec|g" | tee -a "$TRANSCRIPT"
  began=$(date +%s.%N)
  "$@" >"$OUT/step.log" 2>&1 </dev/null
  code=$?
  ended=$(date +%s.%N)
  sed "s|$OUT|.|g; s|$ROOT|ss4rec|g; s/\r/\n/g" "$OUT/step.log" | tail -n 40 | tee -a "$TRANSCRIPT"
  printf '%s\t%s\t%.1f\n' "$name" "$code" "$(echo "$ended - $began" | bc -l)" >>"$STEPS"
  printf '(%s: exit %s, %.0f s)\n' "$name" "$code" "$(echo "$ended - $began" | bc -l)" | tee -a "$TRANSCRIPT"
}

# must CODE COMMAND...: a step may be meant to end with another code than 0.
must() {
  local want=$1
  shift
  "$@"
  local code=$?
  [ "$code" = "$want" ]
}

# first_step COMMAND...: run a training and note the seconds until it has made its first step.
first_step() {
  local began
  began=$(date +%s.%N)
  "$@" --set train.status_every_s=0.01 | while IFS= read -r line; do
    [ -f "$OUT/first_step" ] || case $line in
      *"epoch 1/"*) echo "$(date +%s.%N) - $began" | bc -l >"$OUT/first_step" ;;
    esac
    case $line in *" step "*) ;; *) printf '%s\n' "$line" ;; esac
  done
  return "${PIPESTATUS[0]}"
}

# stop_after_a_checkpoint RUN COMMAND...: wait for a training's first checkpoint, then interrupt it as Ctrl-C does; it must
# end with 130.
stop_after_a_checkpoint() {
  local run=$1 pid code
  shift
  "$@" &
  pid=$!
  while ! compgen -G "$run/checkpoints/step-*" >/dev/null; do
    kill -0 "$pid" 2>/dev/null || { echo "training ended before its first checkpoint"; return 1; }
    sleep 0.2
  done
  kill -INT "$pid"
  wait "$pid"
  code=$?
  echo "exit $code after an interrupt"
  [ "$code" = 130 ]
}

install() {
  python3 -m venv env && env/bin/pip install -q --upgrade pip || return
  local torch
  torch=$(sed -n 's/^torch==//p' "$ROOT/constraints.txt")
  env/bin/pip install -q "torch==$torch+cpu" 2>/dev/null ||
    env/bin/pip install -q --index-url "${SS4REC_TORCH_INDEX:-https://download.pytorch.org/whl/cpu}" "torch==$torch+cpu" || return
  env/bin/pip install -q -c "$ROOT/constraints.txt" "$WHEEL"
}

if [ -n "${SS4REC_FIRST_ENV:-}" ]; then
  ln -sfn "$SS4REC_FIRST_ENV" "$OUT/env"
elif [ -n "${SS4REC_WHEEL:-}" ]; then
  WHEEL=$SS4REC_WHEEL
else
  git -C "$ROOT" archive --format=tar HEAD | (mkdir -p "$OUT/source" && tar -x -C "$OUT/source")
  step "build" pip wheel -q --no-deps --wheel-dir "$OUT/dist" "$OUT/source"
  WHEEL=$(ls "$OUT"/dist/ss4rec-*.whl)
fi
[ -n "${SS4REC_FIRST_ENV:-}" ] || step "install" install
du -sm "$OUT/env/" | cut -f1 >"$OUT/install_mib"
export PATH=$OUT/env/bin:$PATH
step "look" ss4rec --help
step "doctor" ss4rec doctor

cat >purchases.py <<'TEXT'
import pandas as pd, numpy as np
random, rows = np.random.default_rng(0), []
for buyer in range(400):
    article, moment = int(random.integers(90)), pd.Timestamp("2024-01-01") + pd.Timedelta(hours=int(random.integers(2000)))
    for _ in range(int(random.integers(8, 25))):
        rows.append((f"buyer-{buyer}", f"A{article:03d}", moment))
        article = (article + 1) % 90 if random.random() < 0.8 else int(random.integers(90))
        moment += pd.Timedelta(minutes=int(random.integers(1, 5000)))
pd.DataFrame(rows, columns=["buyer", "article", "bought_at"]).to_csv("purchases.csv", index=False)
TEXT
step "own csv" python purchases.py
step "prepare" ss4rec data prepare --source purchases.csv --out data/shop --columns user=buyer,item=article,time=bought_at
step "train" first_step ss4rec train --data data/shop --preset demo --name shop --set train.epochs=6
step "evaluate" ss4rec evaluate --run runs/shop --data data/shop
cat >recommend.py <<'TEXT'
import pandas as pd, ss4rec
frame = pd.read_csv("purchases.csv", parse_dates=["bought_at"])
columns = {"user": "buyer", "item": "article", "time": "bought_at"}
print(ss4rec.Run("runs/shop").recommend(frame, k=3, columns=columns).head(6).to_string(index=False))
TEXT
step "python" python recommend.py
[ -n "${SS4REC_FIRST_ENV:-}" ] || step "notebook tools" pip install -q nbclient nbformat ipykernel
cat >notebook.py <<TEXT
import nbformat
from nbclient import NotebookClient
notebook = nbformat.read("$ROOT/examples/quickstart.ipynb", as_version=4)
NotebookClient(notebook, timeout=300).execute()
print("cells run:", sum(cell.cell_type == "code" for cell in notebook.cells))
TEXT
step "notebook" python notebook.py

step "head" env SS4REC_CPUS=4 python -m cluster.local start
step "doctor of the cluster" ss4rec doctor --cluster --address "http://127.0.0.1:$DASHBOARD" --storage "$OUT/runs"
step "join the head" ss4rec train --data data/shop --preset debug --name joined
step "job" ss4rec submit train --address "http://127.0.0.1:$DASHBOARD" -- \
  --data "$OUT/data/shop" --storage "$OUT/runs" --name job --preset debug --workers 2
cat >space.py <<'TEXT'
from optuna.distributions import FloatDistribution
from tuning.space import SearchSpace

SPACE = SearchSpace(base="debug", parameters={"optim.lr": FloatDistribution(1e-3, 1e-2, log=True)})
TEXT
step "sweep" ss4rec tune --data data/shop --space space.py --trials 4 --name sweep
step "stop" stop_after_a_checkpoint runs/long ss4rec train --data data/shop --preset debug --name long \
  --set train.epochs=20 --set train.patience=0 --set train.checkpoint_every_s=1
step "resume" ss4rec train --data data/shop --preset debug --name long \
  --set train.epochs=20 --set train.patience=0 --set train.checkpoint_every_s=1
step "head stopped" python -m cluster.local stop

step "synthetic ratings" ss4rec data synth --out data/drifting.csv --format csv --users 3000 --items 300 --mean-len 30 \
  --drift transitions=0.6@2018-07-01 --seed 3
step "prepare for a cut" ss4rec data prepare --source data/drifting.csv --out data/drifting --k-core 0
step "cut" ss4rec data split --data data/drifting --cutoff 2018-06-30 --k-core 5 --out data/cut
step "train on the past" ss4rec train --data data/cut/past --preset demo --name past --set train.epochs=5
step "drift" must 10 ss4rec drift --data data/cut --run runs/past --out report --set window=year --set fail_on=drift \
  --set quality_users=500

SECONDS_ALL=$(echo "$(date +%s.%N) - $BEGAN" | bc -l)
python3 - "$STEPS" "$SECONDS_ALL" "$OUT" <<'TEXT'
import json, sys
from pathlib import Path

rows = [line.split("\t") for line in Path(sys.argv[1]).read_text().splitlines()]
failed = [name for name, code, _ in rows if code != "0"]
out = Path(sys.argv[3])
record = {
    "first_hour.minutes": round(float(sys.argv[2]) / 60, 2),
    "first_hour.steps": len(rows),
    "first_hour.steps_failed": len(failed),
    "failed": failed,
    "startup.seconds_to_first_step": round(float((out / "first_step").read_text() or "nan"), 1)
    if (out / "first_step").exists()
    else None,
    "install.mib": int((out / "install_mib").read_text()) if "install" in {name for name, _, _ in rows} else None,
    "seconds": {name: float(seconds) for name, _, seconds in rows},
}
(out / "first_hour.json").write_text(json.dumps(record, indent=2) + "\n")
print(json.dumps(record, indent=2))
sys.exit(bool(failed))
TEXT
