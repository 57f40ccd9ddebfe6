#!/usr/bin/env bash
# A SLURM cluster of one node on this machine, for tests: `slurm.sh start FOLDER`, `slurm.sh stop FOLDER`.
# Needs root and Debian's slurm-wlm and munge, which `start` installs. All files and daemons live in FOLDER, but for a link
# at /etc/slurm/slurm.conf: jobs look for their cluster there, since the plugin strips SLURM's variables from them.
set -euo pipefail
folder=$(realpath -m "$2")
export SLURM_CONF=$folder/slurm.conf
link=/etc/slurm/slurm.conf

stop() {
  for name in slurmd slurmctld munged; do
    if [ -f "$folder/$name.pid" ]; then kill -9 "$(cat "$folder/$name.pid")" 2>/dev/null || true; fi
  done
  if [ "$(readlink "$link")" = "$SLURM_CONF" ]; then rm "$link"; fi
}

start() {
  command -v slurmctld >/dev/null && command -v munged >/dev/null || {
    export DEBIAN_FRONTEND=noninteractive
    apt-get update -qq && apt-get install -y -qq slurm-wlm munge
  } >&2
  if [ -e "$link" ]; then echo "this machine has a cluster of its own: $link" >&2; exit 1; fi
  mkdir -p /etc/slurm "$folder/state" "$folder/spool"
  chmod 755 "$folder"
  dd if=/dev/urandom of="$folder/munge.key" bs=1024 count=1 status=none
  chmod 600 "$folder/munge.key"
  munged --force --key-file "$folder/munge.key" --socket "$folder/munge.socket" --pid-file "$folder/munged.pid" \
    --log-file "$folder/munged.log" --seed-file "$folder/munge.seed"
  host=$(hostname -s)
  cat > "$SLURM_CONF" <<CONF
ClusterName=one
SlurmctldHost=$host(127.0.0.1)
SlurmUser=root
SlurmdUser=root
SlurmctldPort=16817
SlurmdPort=16818
AuthType=auth/munge
AuthInfo=socket=$folder/munge.socket
CredType=cred/munge
StateSaveLocation=$folder/state
SlurmdSpoolDir=$folder/spool
SlurmctldPidFile=$folder/slurmctld.pid
SlurmdPidFile=$folder/slurmd.pid
SlurmctldLogFile=$folder/slurmctld.log
SlurmdLogFile=$folder/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
ReturnToService=2
MinJobAge=3600
SchedulerParameters=defer,sched_interval=2,batch_sched_delay=0
NodeName=$host NodeAddr=127.0.0.1 CPUs=$(nproc --all) RealMemory=$(($(awk '/MemTotal/ {print $2}' /proc/meminfo) / 1024 - 512)) State=UNKNOWN
PartitionName=main Nodes=$host Default=YES MaxTime=INFINITE State=UP
CONF
  ln -sf "$SLURM_CONF" "$link"
  slurmctld
  slurmd
  for _ in $(seq 60); do
    if sinfo -h -o %t 2>/dev/null | grep -q idle; then echo "$SLURM_CONF"; return; fi
    sleep 0.5
  done
  tail "$folder"/*.log >&2
  exit 1
}

"$1"
