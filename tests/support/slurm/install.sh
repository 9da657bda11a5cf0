#!/usr/bin/env bash
# install.sh : Debian's Slurm for the tests, where that can be done; elsewhere say so and let the tests skip.
set -uo pipefail
missing=()
for program in slurmctld slurmd munged sinfo ip nsenter; do command -v "$program" >/dev/null 2>&1 || missing+=("$program"); done
[ ${#missing[@]} -gt 0 ] || exit 0
if [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null; then
  echo "no Slurm here (${missing[*]}), and it is installed only as root with apt: its tests are skipped"; exit 0
fi
# keep the packages from starting system daemons
made=; [ -e /usr/sbin/policy-rc.d ] || { printf '#!/bin/sh\nexit 101\n' >/usr/sbin/policy-rc.d; chmod +x /usr/sbin/policy-rc.d; made=1; }
log=$(mktemp)
export DEBIAN_FRONTEND=noninteractive
{ apt-get update; apt-get -o DPkg::Lock::Timeout=300 install -y --no-install-recommends \
  slurmctld slurmd slurm-client munge iproute2 util-linux; } </dev/null >"$log" 2>&1 ||
  { tail -n 5 "$log"; echo "Slurm could not be installed: its tests are skipped"; }
[ -z "$made" ] || rm -f /usr/sbin/policy-rc.d
rm -f "$log"
