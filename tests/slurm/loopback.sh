#!/usr/bin/env bash
# Sweeps on a Slurm that this script brings up on loopback, and takes down again; see CASES.
#
#     tests/slurm/loopback.sh [python] [case …]
#
# Needs Debian's slurm-wlm and munge, root, and submitit beside convbench in that python (default: python3). Ends with
# 0 if all went as it should, 1 if not, 2 if something is missing. The logs and results are kept if not, and with KEEP=1
# always. Cases other than the first run when they are named; all of them by “all”.
set -uo pipefail

CASES="
preempt  three cells, of which a job of a higher partition preempts one: it goes on, and ends as if undisturbed
hard     the same without a grace time
cancel   scancel of one job of two: recorded interrupted, reported, exit code 1
lost     a job killed with SIGKILL: tried again
limit    a job that runs out of time: saves before, is queued again, goes on
stop     Ctrl-C: all jobs save and end; the same command goes on
wrong    a partition that there is not: told in a line, exit code 2
"

here=$(cd "$(dirname "$0")" && pwd)
. "$here/cluster.sh"
python=${1:-python3}
[ $# = 0 ] || shift
cases=${*:-preempt}
[ "$cases" != all ] || cases=$(awk 'NF {print $1}' <<<"$CASES")

missing() { echo "loopback.sh: $1" >&2; exit 2; }
for case in $cases; do
    grep -q "^$case " <<<"$CASES" || missing "$case: no such case; there are$(awk 'NF {printf " %s", $1}' <<<"$CASES")"
done
lacking=$(cluster_missing | head -n 1)
[ -z "$lacking" ] || missing "$lacking"
"$python" -c 'import submitit' 2>/dev/null || missing "no submitit: $python -m pip install 'convbench[slurm]'"
export PYTHONPATH="$(dirname "$(dirname "$here")")${PYTHONPATH:+:$PYTHONPATH}"

work=$(mktemp -d /tmp/loopback.XXXXXX)
sweep=
finished=
clean() {
    [ -z "$sweep" ] || kill -KILL "$sweep" 2>/dev/null
    cluster_down
    [ -n "$finished" ] && [ -z "${KEEP:-}" ] && rm -rf "$work" || echo "logs and results are in $work"
}
trap clean EXIT
trap 'exit 1' HUP INT TERM

fail() { # what is wrong
    echo "$case: WRONG, $1" >&2
    [ ! -f "$results.log" ] || sed 's/^/    /' "$results.log" | tail -n 25 >&2
    { squeue --states=all && scontrol --oneliner show node && sdiag | head -n 25; } >"$work/slurm.txt" 2>&1
    exit 1
}
until_true() { # seconds, command: waits for it to succeed
    local end=$((SECONDS + $1))
    shift
    until "$@"; do
        [ $SECONDS -lt $end ] || return 1
        sleep 0.5
    done
}

EPOCHS=${EPOCHS:-120}
settings=(model=lenet data=digits data.source.test_size=1500 data.val_size=100 trainer.accelerator=cpu progress=none)
begin() { # settings: starts a sweep, its results and output named by $results
    # of what a script puts into the background bash takes Ctrl-C away
    env --default-signal=INT "$python" -m bench -m hydra/launcher=slurm "hydra.launcher.partition=${partition:-low}" \
        hydra.launcher.cpus_per_task=1 "paths.results=$results" "${settings[@]}" "$@" >>"$results.log" 2>&1 &
    sweep=$!
}
sweep_ended() { ! kill -0 "$sweep" 2>/dev/null || grep -q '^State:.Z' "/proc/$sweep/status"; }
end() { # seconds: waits for the sweep → code
    until_true "$1" sweep_ended || fail "the sweep does not end"
    wait "$sweep"
    code=$?
    sweep=
}
rows() { cat "$results"/runs/*-s"$1"-*/metrics.csv 2>/dev/null | wc -l; } # of the cell with that seed, so far
trains() { [ "$(rows "$1")" -gt "${2:-5}" ]; }
status() { grep -ho '"status": "[a-z]*"' "$results"/runs/*-s"$1"-*/record.json | cut -d'"' -f4; }
trainer_of() { sed -n 's/.*"pid": *\([0-9]*\).*/\1/p' "$results"/runs/*-s"$1"-*/claim.json; } # seed → process
job_of() { # seed → the job that works on the cell, as submitit names it
    tr '\0' '\n' <"/proc/$(trainer_of "$1")/environ" | awk -F= '
        {is[$1] = $2}
        END {a = is["SLURM_ARRAY_JOB_ID"]; print a ? a "_" is["SLURM_ARRAY_TASK_ID"] : is["SLURM_JOB_ID"]}'
}
said() { cat "$results"/sweeps/*/jobs/*_log.out | grep -c "$1"; } # how often, in the jobs' logs
expect() { grep -q "$1" "$results.log" || fail "the sweep does not say “$1”"; }

restarts() { scontrol show job | grep -c 'Restarts=[1-9]'; } # jobs that were put into the queue again
more_than() { [ "$(restarts)" -gt "$1" ]; }
case_preempt() {
    local before
    before=$(restarts)
    begin seed=0,1,2 "trainer.max_epochs=$EPOCHS"
    local cell
    until_true 120 trains 0 || fail "no cell trains"
    sbatch --partition=high --cpus-per-task=1 --output=/dev/null --wrap 'sleep 8' >/dev/null || fail "sbatch fails"
    until_true 60 more_than "$before" || fail "no job was preempted"
    end 400
    [ "$code" = 0 ] || fail "exit code $code"
    expect "3 of 3 cells ok"
    cell=$(sed -n 's/: resumes from its last checkpoint$//p' "$results"/sweeps/*/jobs/*_log.out)
    [ "$(wc -w <<<"$cell")" = 1 ] || fail "of the cells, these went on from a checkpoint: ${cell:-none}"
    OMP_NUM_THREADS=1 "$python" -m bench "paths.results=$results-alone" "${settings[@]}" "trainer.max_epochs=$EPOCHS" \
        "seed=$(sed 's/.*-s\([0-9]*\)-.*/\1/' <<<"$cell")" >"$results-alone.log" 2>&1 ||
        fail "the undisturbed run fails"
    "$python" - "$results/runs/$cell" "$results-alone/runs/$cell" <<'PYTHON' || fail "another result than undisturbed"
import json, pathlib, sys

one, other = (json.loads((pathlib.Path(path) / "record.json").read_text()) for path in sys.argv[1:])
for key in ("metrics", "epochs", "selected_epoch"):
    print(f"    {key}: {one[key]}" if one[key] == other[key] else f"    {key}: {one[key]}, undisturbed {other[key]}")
print(f"    {one['run_id']} was preempted: fit {one['fit_seconds']:.1f} s, undisturbed {other['fit_seconds']:.1f} s")
sys.exit(any(one[key] != other[key] for key in ("metrics", "epochs", "selected_epoch")))
PYTHON
    told="3 of 3 cells ok; $cell preempted, went on, same result as undisturbed"
}

case_hard() {
    scontrol update PartitionName=low GraceTime=0
    case_preempt
    scontrol update PartitionName=low GraceTime=15
}

case_cancel() {
    begin seed=0,1 "trainer.max_epochs=$EPOCHS"
    until_true 120 trains 1 || fail "the second cell does not train"
    scancel "$(job_of 1)"
    end 300
    [ "$code" = 1 ] || fail "exit code $code instead of 1"
    [ "$(status 0) $(status 1)" = "ok interrupted" ] || fail "recorded as $(status 0), $(status 1)"
    expect "1 of 2 cells ok"
    expect "seed 1: interrupted, stopped by SIGTERM"
    told="one of two cancelled: $(status 1), exit code 1"
}

case_lost() {
    begin seed=0,1 "trainer.max_epochs=$EPOCHS" sweep.retries=1
    until_true 120 trains 1 || fail "the second cell does not train"
    kill -KILL "$(trainer_of 1)"
    end 300
    [ "$code" = 0 ] || fail "exit code $code"
    expect "try 2 of 2"
    expect "2 of 2 cells ok"
    [ "$(said 'resumes from its last checkpoint')" = 1 ] || fail "it did not resume from its checkpoint"
    told="killed, tried again, went on: 2 of 2 cells ok"
}

case_limit() {
    begin seed=0 "trainer.max_epochs=${LONG:-400}" hydra.launcher.timeout_min=1 hydra.launcher.signal_delay_s=30
    end 500
    [ "$code" = 0 ] || fail "exit code $code"
    expect "1 of 1 cells ok"
    local times
    times=$(said 'resumes from its last checkpoint')
    [ "$times" -ge 1 ] || fail "it did not run out of time; LONG=… epochs last longer"
    told="ran out of time $times times, went on each time"
}

case_stop() {
    begin seed=0,1,2 "trainer.max_epochs=$EPOCHS"
    until_true 120 trains 0 || fail "no cell trains"
    kill -INT "$sweep"
    end 120
    [ "$code" = 130 ] || fail "exit code $code instead of 130"
    expect "stopped; the same command resumes from there"
    [ "$(status 0)" = interrupted ] || fail "recorded as $(status 0)"
    [ -z "$(squeue --noheader --name=bench)" ] || fail "jobs are left: $(squeue --noheader --name=bench | wc -l)"
    begin seed=0,1,2 "trainer.max_epochs=$EPOCHS"
    end 400
    [ "$code" = 0 ] || fail "exit code $code of the same command"
    expect "3 of 3 cells ok"
    told="stopped by Ctrl-C, 130; the same command: 3 of 3 cells ok"
}

case_wrong() {
    partition=nowhere begin seed=0
    end 60
    [ "$code" = 2 ] || fail "exit code $code instead of 2"
    expect "^bench: .*invalid partition"
    told=$(grep "^bench: " "$results.log")
}

case=cluster results=$work
cluster_up "$work/cluster" || exit 1
for case in $cases; do
    results=$work/$case started=$SECONDS told=
    "case_$case"
    echo "$case: $told, $((SECONDS - started)) s"
done
finished=yes
