#!/usr/bin/env bash
# down.sh -- stop what up.sh started (by recorded pid and start time) and remove its state.
# KEEP_LOGS=dir copies the logs there first.
set -uo pipefail
DIR=${SLURM_UP_DIR:-/tmp/kds-slurm}; BR=kdsbr0
[ -d "$DIR" ] || { echo "slurm down: nothing at $DIR"; exit 0; }
export SLURM_CONF=$DIR/etc/slurm.conf
[ -z "${KEEP_LOGS:-}" ] || { mkdir -p "$KEEP_LOGS"; cp -a "$DIR/log/." "$KEEP_LOGS/"; }
mine() { [ "$(awk '{print $22}' /proc/$1/stat 2>/dev/null)" = "$2" ]; }
# plain mode shares one PID namespace, so let Slurm kill the jobs before its daemons go
if grep -q MODE=plain "$DIR/run/want" 2>/dev/null; then
  for j in $(timeout 5 squeue -h -o %A 2>/dev/null | sort -u); do timeout 5 scancel "$j"; done
  for _ in {1..100}; do [ -z "$(timeout 5 squeue -h 2>/dev/null)" ] && break; sleep 0.1; done
fi
if [ -s "$DIR/run/pids" ]; then
  # everything is thrown away, so KILL: `unshare` takes its node's PID 1 (and all in it) along
  mapfile -t L < <(tac "$DIR/run/pids")
  for l in "${L[@]}"; do read -r n p s <<<"$l"; mine "$p" "$s" && kill -KILL "$p" 2>/dev/null; done
  for _ in {1..100}; do
    left=0; for l in "${L[@]}"; do read -r n p s <<<"$l"; mine "$p" "$s" && [ "$(awk '{print $3}' /proc/$p/stat 2>/dev/null)" != Z ] && left=1; done
    [ $left = 0 ] && break; sleep 0.05
  done
fi
for f in "$DIR"/nodes/*/pid1; do   # belt and braces: PID 1 of each node, if it really is one of ours
  [ -f "$f" ] && p=$(cat "$f") && grep -aq "$DIR/bin/node-init" "/proc/$p/cmdline" 2>/dev/null && kill -KILL "$p"
done
ip link show $BR >/dev/null 2>&1 && ip link del $BR
rm -rf "$DIR"
echo "slurm down: stopped"
