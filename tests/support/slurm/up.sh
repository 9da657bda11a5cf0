#!/usr/bin/env bash
# up.sh [N]  -- start a real Slurm with N virtual nodes (default 2) on this one host.
#
# Wants what install.sh installs, and root; needs no systemd, no cgroups and no container engine. Idempotent: a second
# call with the same settings only prints sinfo; a call with other settings (or a half-dead cluster) restarts it.
#
#   eval "$(up.sh 2 --env)"   or   up.sh 2 && . /tmp/kds-slurm/env.sh
#
# cred_expire=5 (the least allowed) makes a requeued job start again after 6 s instead of 121 s.
# (`scontrol update jobid=J StartTime=now` would skip even that, but too soon after the kill the job
# then dies with "Job credential revoked".)
#
# Settings (environment):
#   SLURM_UP_DIR=/tmp/kds-slurm  state, config, logs, pids (wiped at every fresh start)
#   SLURM_UP_MODE=netns|plain    netns (default): every node has its own network, PID, UTS and mount
#                                namespace: own IP 10.77.0.i, own hostname, own /dev/shm and /tmp/ray,
#                                own munged; the rest of the filesystem is shared (like NFS).
#                                plain: several slurmd -N on 127.0.0.1, everything shared.
#   SLURM_UP_CPUS=4 SLURM_UP_MEM=8000 SLURM_UP_GPUS=0   per node (claimed, not real)
#   SLURM_UP_ACCT=0|1            1: slurmdbd + MariaDB, so that sacct works
#   SLURM_UP_NET=10.77.0         first three octets of the nodes' network
#   SLURM_UP_PRIVATE_TMP=0|1     1 (netns): every node has its own /tmp, as on real clusters, except
#   SLURM_UP_SHARED="/tmp/a .."  these paths under it, which stay shared
set -euo pipefail
N=2; PRINT_ENV=0
for a in "$@"; do case $a in --env) PRINT_ENV=1;; [0-9]*) N=$a;; *) echo "usage: $0 [N] [--env]" >&2; exit 2;; esac; done
DIR=${SLURM_UP_DIR:-/tmp/kds-slurm}; MODE=${SLURM_UP_MODE:-netns}; ACCT=${SLURM_UP_ACCT:-0}
CPUS=${SLURM_UP_CPUS:-4}; MEM=${SLURM_UP_MEM:-8000}; GPUS=${SLURM_UP_GPUS:-0}; NET=${SLURM_UP_NET:-10.77.0}
PTMP=${SLURM_UP_PRIVATE_TMP:-0}; SHARED=${SLURM_UP_SHARED:-}
BR=kdsbr0; CTLPORT=16817; DPORT=16818; DBDPORT=16819; MYPORT=16820
HERE=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
say() { echo "slurm up: $*" >&2; }
die() { say "$*"; for f in "$DIR"/log/*; do [ -f "$f" ] && { echo "--- $f"; tail -n 15 "$f"; } >&2; done; exit 1; }
trap 'say "failed at line $LINENO"' ERR
[ "$(id -u)" = 0 ] || { say "must be root"; exit 1; }
export SLURM_CONF=$DIR/etc/slurm.conf
unset ${!SLURM_@} 2>/dev/null || true; export SLURM_CONF=$DIR/etc/slurm.conf   # never inherit a job's own SLURM_*

# ---- 1. already up? --------------------------------------------------------------------------
names() { local i; for ((i=1;i<=N;i++)); do echo node$i; done; }
want="N=$N MODE=$MODE CPUS=$CPUS MEM=$MEM GPUS=$GPUS ACCT=$ACCT NET=$NET PTMP=$PTMP SHARED=$SHARED"
alive() { local name pid st; [ -s "$DIR/run/pids" ] || return 1
  while read -r name pid st; do [ "$(awk '{print $22}' /proc/$pid/stat 2>/dev/null)" = "$st" ] || return 1; done <"$DIR/run/pids"; }
healthy() { [ "$(timeout 2 sinfo -h -N -p main -o '%T' 2>/dev/null | grep -cE '^(idle|mixed|allocated|completing)$')" = "$N" ]; }
finish() { if [ $PRINT_ENV = 1 ]; then cat "$DIR/env.sh"; sinfo -N -l >&2; else sinfo -N -l; echo ". $DIR/env.sh"; fi; exit 0; }
if [ -d "$DIR" ]; then
  if [ "$(cat "$DIR/run/want" 2>/dev/null)" = "$want" ] && alive && healthy; then say "already up"; finish; fi
  SLURM_UP_DIR=$DIR "$HERE/down.sh" >&2
fi

# ---- 2. configuration ------------------------------------------------------------------------
t0=$(date +%s%N)
mkdir -p "$DIR"/{etc,run,log,state,spool,dev,bin,munge}; chmod 755 "$DIR" "$DIR"/*
echo "$want" >"$DIR/run/want"; : >"$DIR/run/pids"
[ "$MODE" = netns ] && CTL=$NET.254 || CTL=127.0.0.1
H=$(hostname -s)
{ cat <<C
ClusterName=kds
SlurmctldHost=$H($CTL)
SlurmUser=root
SlurmctldPort=$CTLPORT
SlurmdPort=$DPORT
AuthType=auth/munge
AuthInfo=socket=$DIR/munge/socket,cred_expire=5
StateSaveLocation=$DIR/state
SlurmdSpoolDir=$DIR/spool/%n
SlurmctldPidFile=$DIR/run/slurmctld.pid
SlurmdPidFile=$DIR/run/slurmd-%n.pid
SlurmctldLogFile=$DIR/log/slurmctld.log
SlurmdLogFile=$DIR/log/slurmd-%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SlurmdParameters=config_overrides
SlurmctldParameters=preempt_send_user_signal
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
JobRequeue=1
KillWait=10
MinJobAge=3600
ReturnToService=2
MpiDefault=none
MailProg=/bin/true
SlurmdTimeout=20
InactiveLimit=0
SchedulerParameters=batch_sched_delay=0,sched_interval=1,bf_interval=1,sched_min_interval=0
JobCompType=jobcomp/filetxt
JobCompLoc=$DIR/log/jobcomp.log
C
  [ "$ACCT" = 0 ] && echo "JobAcctGatherType=jobacct_gather/none" || cat <<C
JobAcctGatherType=jobacct_gather/linux
AccountingStorageType=accounting_storage/slurmdbd
AccountingStorageHost=$CTL
AccountingStoragePort=$DBDPORT
AccountingStoragePass=$DIR/munge/socket
C
  [ "$GPUS" = 0 ] || echo "GresTypes=gpu"
  G=; [ "$GPUS" = 0 ] || G=" Gres=gpu:fake:$GPUS"
  for ((i=1;i<=N;i++)); do
    if [ "$MODE" = netns ]; then A="NodeAddr=$NET.$i"; else A="NodeHostname=$H NodeAddr=127.0.0.1 Port=$((17000+i))"; fi
    echo "NodeName=node$i $A CPUs=$CPUS Boards=1 SocketsPerBoard=1 CoresPerSocket=$CPUS ThreadsPerCore=1 RealMemory=$MEM Feature=virtual,n$i$G State=UNKNOWN"
  done
  echo "PartitionName=main Nodes=ALL Default=YES MaxTime=INFINITE DefaultTime=60 PriorityTier=10 PreemptMode=OFF"
  echo "PartitionName=scavenge Nodes=ALL MaxTime=INFINITE DefaultTime=60 PriorityTier=1 PreemptMode=REQUEUE GraceTime=15"
} >"$SLURM_CONF"
if [ "$GPUS" != 0 ]; then    # fake GPUs: any device file whose name ends in the index will do
  for ((g=0;g<GPUS;g++)); do [ -e "$DIR/dev/nvidia$g" ] || mknod -m 666 "$DIR/dev/nvidia$g" c 1 3; done
  r=0; [ "$GPUS" = 1 ] || r="[0-$((GPUS-1))]"
  echo "Name=gpu Type=fake File=$DIR/dev/nvidia$r" >"$DIR/etc/gres.conf"
fi
{ echo "127.0.0.1 localhost"; [ "$MODE" = netns ] && { echo "$CTL $H"; for ((i=1;i<=N;i++)); do echo "$NET.$i node$i"; done; }; } >"$DIR/etc/hosts"
cat >"$DIR/env.sh" <<C
export SLURM_CONF=$SLURM_CONF
export PATH=$DIR/bin:\$PATH
C
head -c 128 /dev/urandom >"$DIR/etc/munge.key"; chmod 600 "$DIR/etc/munge.key"

# ---- 3. daemons ------------------------------------------------------------------------------
track() { echo "$1 $2 $(awk '{print $22}' /proc/$2/stat)" >>"$DIR/run/pids"; }
bg() { local name=$1; shift; setsid "$@" </dev/null >"$DIR/log/$name.out" 2>&1 & track "$name" $!; }
until_ok() { local end=$((SECONDS+$1)); shift   # wait for a command to succeed, or a deadline, or a daemon's death
  while [ $SECONDS -le $end ]; do "$@" >/dev/null 2>&1 && return 0; alive || return 1; sleep 0.05; done; return 1; }
cat >"$DIR/bin/start-munged" <<C
#!/bin/sh
# start-munged DIR : a munged in the foreground with its files in DIR
exec munged -F --force --key-file=$DIR/etc/munge.key --socket=$DIR/munge/socket --pid-file=\$1/pid --log-file=\$1/log --seed-file=\$1/seed --num-threads=2
C
cat >"$DIR/bin/node-init" <<C
#!/bin/bash
# PID 1 of one virtual node (bash reaps orphans, which Ray's \`ray stop\` needs)
name=\$1 ip=\$2 d=$DIR/nodes/\$1
hostname \$name
mount -t tmpfs -o mode=1777 tmpfs /dev/shm
mkdir -p /tmp/ray; mount --bind \$d/tmp-ray /tmp/ray; chmod 1777 /tmp/ray
mount --bind $DIR/etc/hosts /etc/hosts
mount --bind \$d/munge $DIR/munge
if [ $PTMP = 1 ]; then
  mkdir -p \$d/tmp; chmod 1777 \$d/tmp
  for p in $DIR /tmp/ray $SHARED; do
    case \$p in /tmp/*) mkdir -p \$p \$d\$p; mount --rbind \$p \$d\$p;; esac
  done
  mount --rbind \$d/tmp /tmp
fi
ip link set lo up
touch \$d/ready
for i in {1..200}; do ip link show eth0 >/dev/null 2>&1 && break; sleep 0.02; done
ip addr add \$ip/24 dev eth0; ip link set eth0 up
ip route add default via $CTL   # nothing answers there; only lets programs find their own address
$DIR/bin/start-munged \$d/munge &
for i in {1..200}; do [ -S $DIR/munge/socket ] && break; sleep 0.02; done
slurmd -D -N \$name &
wait \$!
C
cat >"$DIR/bin/node-exec" <<C
#!/bin/sh
# node-exec NODE CMD... : run CMD inside a virtual node's namespaces (netns mode)
n=\$1; shift; exec nsenter -t \$(cat $DIR/nodes/\$n/pid1) -m -u -n -p -- "\$@"
C
chmod +x "$DIR"/bin/*

bg munged "$DIR/bin/start-munged" "$DIR/munge"
until_ok 10 munge -n --socket "$DIR/munge/socket" || die "munged did not start"
if [ "$MODE" = netns ]; then
  ip link del $BR 2>/dev/null || true
  ip link add $BR type bridge || die "no network namespaces here: use SLURM_UP_MODE=plain"
  ip addr add $CTL/24 dev $BR; ip link set $BR up
fi
if [ "$ACCT" = 1 ]; then
  if [ ! -d "$DIR/mysql" ]; then
    mariadb-install-db --no-defaults --user=root --datadir="$DIR/mysql" --auth-root-authentication-method=socket --skip-test-db >"$DIR/log/mariadb-install.log" 2>&1 || die "mariadb-install-db failed"
  fi
  bg mariadbd mariadbd --no-defaults --user=root --datadir="$DIR/mysql" --socket="$DIR/run/mysql.sock" --pid-file="$DIR/run/mysql.pid" --bind-address=127.0.0.1 --port=$MYPORT --innodb-buffer-pool-size=128M
  until_ok 30 mariadb-admin --no-defaults -S "$DIR/run/mysql.sock" ping || die "mariadbd did not start"
  mariadb --no-defaults -S "$DIR/run/mysql.sock" -e "create database if not exists slurm_acct; create user if not exists 'slurm'@'%' identified by 'slurm'; grant all on slurm_acct.* to 'slurm'@'%'"
  cat >"$DIR/etc/slurmdbd.conf" <<C
AuthType=auth/munge
AuthInfo=socket=$DIR/munge/socket
DbdHost=$H
DbdAddr=$CTL
DbdPort=$DBDPORT
SlurmUser=root
LogFile=$DIR/log/slurmdbd.log
PidFile=$DIR/run/slurmdbd.pid
StorageType=accounting_storage/mysql
StorageHost=127.0.0.1
StoragePort=$MYPORT
StorageUser=slurm
StoragePass=slurm
StorageLoc=slurm_acct
C
  chmod 600 "$DIR/etc/slurmdbd.conf"
  bg slurmdbd slurmdbd -D
  until_ok 30 bash -c "exec 3<>/dev/tcp/$CTL/$DBDPORT" || die "slurmdbd did not start"
  sacctmgr -i add cluster kds >"$DIR/log/sacctmgr.log" 2>&1 || true
fi
bg slurmctld slurmctld -D
if [ "$MODE" = netns ]; then
  for ((i=1;i<=N;i++)); do
    d=$DIR/nodes/node$i; mkdir -p "$d"/{munge,tmp-ray}; rm -f "$d/ready"
    bg node$i unshare --mount --uts --ipc --net --pid --fork --kill-child --mount-proc "$DIR/bin/node-init" node$i $NET.$i
    p=$!; until_ok 10 test -e "$d/ready" || die "node$i did not start"
    c=$(cat "/proc/$p/task/$p/children" 2>/dev/null || pgrep -P "$p"); echo ${c%% *} >"$d/pid1"
    ip link del kdsv$i 2>/dev/null || true    # of a node that was killed a moment ago
    ip link add kdsv$i type veth peer name eth0 netns "$p"; ip link set kdsv$i master $BR up
  done
else
  for ((i=1;i<=N;i++)); do bg node$i slurmd -D -N node$i; done
fi
until_ok 30 healthy || die "nodes did not come up: $(sinfo -h -N -o '%N %T' 2>&1 | tr '\n' ' ')"
say "$N node(s) up in $(( ($(date +%s%N)-t0)/1000000 )) ms ($MODE mode, $(slurmctld -V))"
finish
