#!/usr/bin/env bash
# A Ray head on this machine for debugging jobs without a cluster: loopback only, dashboard on, token authentication.
#
#   cluster/local.sh start     start it and print what to do next
#   cluster/local.sh stop      end exactly this head, by its process id
#   cluster/local.sh status    say whether it runs
#
#   SS4REC_PORT (26379), SS4REC_DASHBOARD_PORT (8265), SS4REC_CPUS (all), SS4REC_STATE (~/.ss4rec-local)
set -euo pipefail

PORT=${SS4REC_PORT:-26379}
DASHBOARD_PORT=${SS4REC_DASHBOARD_PORT:-8265}
CPUS=${SS4REC_CPUS:-$(getconf _NPROCESSORS_ONLN)}
STATE=${SS4REC_STATE:-$HOME/.ss4rec-local}
PID_FILE=$STATE/head.pid
URL=http://127.0.0.1:$DASHBOARD_PORT

# Ray binds to 127.0.0.1 with the first one; the second keeps its idle Python processes (each start costs seconds); without
# the third, `stop` waits up to 30 s for what runs to move to another node.
export RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER=0 RAY_num_workers_soft_limit=8 RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S=0
export RAY_USAGE_STATS_ENABLED=0 RAY_AUTH_MODE=token PYTHONUNBUFFERED=1

die() { printf '%s\n' "local: error: $*" >&2; exit 1; }
alive() { [ -f "$PID_FILE" ] && kill -0 "$(cat "$PID_FILE")" 2>/dev/null; }

start() {
  if alive; then die "a head runs already (pid $(cat "$PID_FILE")); cluster/local.sh stop"; fi
  command -v ray >/dev/null || die "no ray on PATH; activate the environment: source .venv/bin/activate"
  mkdir -p "$STATE"
  [ -f "$HOME/.ray/auth_token" ] || [ -n "${RAY_AUTH_TOKEN:-}" ] || ray get-auth-token --generate >/dev/null
  local try
  for try in 1 2 3; do
    begin
    if came_up; then break; fi
    tail -n 20 "$STATE/head.log" >&2
    # Ray ends its node if the node's agent does not answer within 15 s.
    grep -q "timed out during startup" "$STATE/head.log" || die "the head ended at once; its log is above"
    [ "$try" -lt 3 ] || die "Ray did not start in three tries; this machine is too busy, or Ray is broken here"
    echo "local: Ray did not start in its time; this machine is busy, trying again" >&2
  done
  cat <<TEXT
Ray head on $URL with $CPUS CPUs (pid $(cat "$PID_FILE"), log $STATE/head.log). Next:

  ss4rec doctor
  ss4rec train --data DATA                        # joins this head
  ss4rec submit train --address $URL -- --data /path/to/prepared --storage /path/to/runs
  cluster/local.sh stop
TEXT
}

begin() {
  # The ports lie outside Ray's worker ports (10002 to 19999).
  nohup ray start --head --block --node-ip-address=127.0.0.1 --port="$PORT" --num-cpus="$CPUS" \
    --include-dashboard=true --dashboard-host=127.0.0.1 --dashboard-port="$DASHBOARD_PORT" \
    --dashboard-agent-listen-port=$((DASHBOARD_PORT + 20101)) --ray-client-server-port=$((PORT + 1)) \
    --disable-usage-stats >"$STATE/head.log" 2>&1 &
  echo $! >"$PID_FILE"
}

# Wait for the dashboard; false if the head ended.
came_up() {
  local tries
  for tries in $(seq 1 600); do
    alive || return 1
    # Any answer will do: without a token it is 401. The log's line comes when commands can find the head.
    if (exec 3<>"/dev/tcp/127.0.0.1/$DASHBOARD_PORT") 2>/dev/null && grep -q "Ray runtime started" "$STATE/head.log"; then
      return
    fi
    [ "$tries" -lt 600 ] && sleep 0.5
  done
  die "no dashboard on $URL after 300 s; see $STATE/head.log, then cluster/local.sh stop"
}

stop() {
  alive || die "no head of this script runs"
  local pid
  pid=$(cat "$PID_FILE")
  kill -TERM "$pid"
  while kill -0 "$pid" 2>/dev/null; do sleep 0.2; done
  rm -f "$PID_FILE"
  # Ray leaves the address of the head behind, and commands would look for it there.
  local left=${RAY_TMPDIR:-/tmp}/ray/ray_current_cluster
  if [ "$(cat "$left" 2>/dev/null)" = "127.0.0.1:$PORT" ]; then rm -f "$left"; fi
  echo "stopped"
}

status() {
  if alive; then echo "running: pid $(cat "$PID_FILE"), $URL"; else echo "not running"; exit 1; fi
}

case ${1:-} in
  start | stop | status) "$1" ;;
  *) die "usage: cluster/local.sh start | stop | status" ;;
esac
