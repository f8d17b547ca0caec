# shellcheck shell=bash
# Slurm of one node on loopback, for loopback.sh: cluster_missing, cluster_up FOLDER, cluster_down.

cluster_missing() { # what is not there, in a line
    local missing=()
    for program in munged slurmctld slurmd sbatch squeue scontrol scancel; do
        command -v "$program" >/dev/null || missing+=("$program")
    done
    [ ${#missing[@]} = 0 ] || echo "${missing[*]} not installed: apt-get install slurm-wlm munge"
    [ "$(id -u)" = 0 ] || echo "not root, which slurmd needs to be"
}

cluster_up() {
    CLUSTER=$1
    local port cpus
    cpus=$(($(nproc) < 2 ? 1 : 2)) # so that two cells fill the node
    mkdir -p "$CLUSTER/state" "$CLUSTER/spool" "$CLUSTER/munge"
    chmod 755 "$CLUSTER" "$CLUSTER/munge"
    (umask 077 && head -c 128 /dev/urandom >"$CLUSTER/munge/key")
    munged --key-file="$CLUSTER/munge/key" --socket="$CLUSTER/munge/socket" --pid-file="$CLUSTER/munge/pid" \
        --log-file="$CLUSTER/munge/log" --seed-file="$CLUSTER/munge/seed" --force --foreground \
        >"$CLUSTER/munge/out" 2>&1 &
    DAEMONS=($!)
    port=$(shuf -i 20000-29999 -n 1)
    cat >"$CLUSTER/slurm.conf" <<CONF
ClusterName=loopback
SlurmctldHost=$(hostname -s)(127.0.0.1)
SlurmctldPort=$port
SlurmdPort=$((port + 1))
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket=$CLUSTER/munge/socket,cred_expire=5
StateSaveLocation=$CLUSTER/state
SlurmdSpoolDir=$CLUSTER/spool
SlurmctldPidFile=$CLUSTER/slurmctld.pid
SlurmdPidFile=$CLUSTER/slurmd.pid
SlurmctldLogFile=$CLUSTER/slurmctld.log
SlurmdLogFile=$CLUSTER/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
ReturnToService=2
SwitchType=switch/none
AccountingStorageType=accounting_storage/none
JobAcctGatherType=jobacct_gather/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SchedulerParameters=sched_interval=2
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
JobRequeue=1
KillWait=${KILL_WAIT:-20}
OverTimeLimit=0
NodeName=$(hostname -s) NodeAddr=127.0.0.1 CPUs=$cpus State=UNKNOWN
PartitionName=low Nodes=ALL Default=YES PriorityTier=1 PreemptMode=REQUEUE GraceTime=${GRACE:-15} MaxTime=600
PartitionName=high Nodes=ALL PriorityTier=10 PreemptMode=OFF MaxTime=600
CONF
    export SLURM_CONF=$CLUSTER/slurm.conf
    for _ in $(seq 50); do
        [ ! -S "$CLUSTER/munge/socket" ] || break
        sleep 0.1
    done
    slurmctld -D -c >"$CLUSTER/slurmctld.out" 2>&1 &
    DAEMONS+=($!)
    slurmd -D -c >"$CLUSTER/slurmd.out" 2>&1 &
    DAEMONS+=($!)
    disown "${DAEMONS[@]}" # whose end is not worth a line
    for _ in $(seq 60); do
        [ "$(sinfo -h -o %T 2>/dev/null | sort -u)" != idle ] || return 0
        sleep 0.5
    done
    echo "Slurm does not come up:" >&2
    tail -n 5 "$CLUSTER"/*.out "$CLUSTER"/*.log "$CLUSTER/munge/log" >&2
    return 1
}

cluster_processes() { # of the daemons and their jobs: all that were started with this configuration
    local file
    for file in /proc/[0-9]*/environ; do
        if grep -qsz "^SLURM_CONF=$CLUSTER/slurm.conf$" "$file"; then basename "$(dirname "$file")"; fi
    done
}

cluster_down() {
    [ -n "${CLUSTER:-}" ] || return 0
    local pid
    for _ in 1 2 3; do
        # shellcheck disable=SC2046
        kill -KILL $(cluster_processes) 2>/dev/null || break
        sleep 0.2
    done
    for pid in "${DAEMONS[@]}"; do
        kill -KILL "$pid" 2>/dev/null
    done
}
