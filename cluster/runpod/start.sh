#!/usr/bin/env bash
# Start Ray on RunPod, or on any hosts that reach one another; run it on every node (nohup cluster/runpod/start.sh &).
#
#   start.sh                    a pod: one node with all its GPUs; an Instant Cluster: head or worker by NODE_RANK
#   start.sh head               plain hosts: the first one
#   start.sh worker ADDRESS     plain hosts: each other one; ADDRESS is the head's
#
#   RAY_AUTH_TOKEN   the same secret on all nodes (one node makes its own if it is not set)
#   SS4REC_STORAGE   folder that all nodes share (default: /runpod-volume, a network volume, else /workspace)
#   SS4REC_PORT (6379), SS4REC_DASHBOARD_PORT (8265)
#   NODE_ADDR        this node's address in the fast network (default: the first one that hostname -I names)
set -euo pipefail

PORT=${SS4REC_PORT:-6379}
DASHBOARD_PORT=${SS4REC_DASHBOARD_PORT:-8265}
die() { printf '%s\n' "start: error: $*" >&2; exit 1; }

find_role() {
  if [ $# -gt 0 ]; then
    ROLE=$1 HEAD=${2:-}
  elif [ -n "${PRIMARY_ADDR:-}" ]; then # an Instant Cluster
    if [ "${NODE_RANK:?PRIMARY_ADDR is set, but not NODE_RANK}" = 0 ]; then ROLE="head"; else ROLE="worker"; fi
    HEAD=$PRIMARY_ADDR
  else
    ROLE=pod HEAD=127.0.0.1
  fi
  case $ROLE in
    pod | head) ;;
    worker) [ -n "$HEAD" ] || die "a worker needs the head's address: start.sh worker ADDRESS" ;;
    *) die "unknown role '$ROLE'; use head or worker ADDRESS, or nothing on RunPod" ;;
  esac
}

find_storage() {
  if [ -z "${SS4REC_STORAGE:-}" ]; then
    if [ -d /runpod-volume ]; then SS4REC_STORAGE=/runpod-volume; else SS4REC_STORAGE=/workspace; fi
  fi
  if ! mkdir -p "$SS4REC_STORAGE/runs" 2>/dev/null || [ ! -w "$SS4REC_STORAGE/runs" ]; then
    die "storage $SS4REC_STORAGE cannot be written; attach a network volume or set SS4REC_STORAGE"
  fi
  export SS4REC_STORAGE
}

# NCCL and gloo must use the interface that carries NODE_ADDR: the default one joins pods at 100 Mbit/s.
choose_interface() {
  local interface
  NODE_ADDR=${NODE_ADDR:-$(hostname -I | cut -d' ' -f1)}
  interface=$(ip -o -4 addr show | awk -v address="$NODE_ADDR" '{split($4, part, "/")} part[1] == address {print $2}')
  [ -n "$interface" ] || die "no interface has NODE_ADDR=$NODE_ADDR; set NODE_ADDR to this node's address"
  export NCCL_SOCKET_IFNAME=${NCCL_SOCKET_IFNAME:-$interface} GLOO_SOCKET_IFNAME=${GLOO_SOCKET_IFNAME:-$interface}
}

prepare_token() {
  export RAY_AUTH_MODE=token
  if [ "$ROLE" = pod ]; then
    [ -n "${RAY_AUTH_TOKEN:-}" ] || [ -f "$HOME/.ray/auth_token" ] || ray get-auth-token --generate >/dev/null
  else
    [ -n "${RAY_AUTH_TOKEN:-}" ] || die "set RAY_AUTH_TOKEN, the same on all nodes (a RunPod secret)"
  fi
}

command -v ray >/dev/null || die "no ray on PATH; use the image of cluster/Dockerfile or tools/install.sh"
find_role "$@"
find_storage
prepare_token
GPUS=$(nvidia-smi -L 2>/dev/null | wc -l)
export RAY_USAGE_STATS_ENABLED=0
echo "start: $ROLE with $GPUS GPU(s), head ${HEAD:-here}, storage $SS4REC_STORAGE"

address=127.0.0.1
if [ "$ROLE" != pod ]; then
  choose_interface
  address=$NODE_ADDR
fi
if [ "$ROLE" = worker ]; then
  exec ray start --block --address="$HEAD:$PORT" --node-ip-address="$address" --num-gpus="$GPUS"
fi
echo "start: next, in another shell of this node: RAY_AUTH_MODE=token ss4rec train --address auto \\"
echo "start:   --data $SS4REC_STORAGE/data/ml-1m --storage $SS4REC_STORAGE/runs --workers $((GPUS > 0 ? GPUS : 1)) (GPUs of all nodes)"
exec ray start --head --block --port="$PORT" --node-ip-address="$address" --num-gpus="$GPUS" \
  --include-dashboard=true --dashboard-host=127.0.0.1 --dashboard-port="$DASHBOARD_PORT"
