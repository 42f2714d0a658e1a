#!/usr/bin/env bash
# A study on a real Slurm: two nodes on this machine, no accounting. Needs root, and Debian's
# packages slurmctld, slurmd, slurm-client, munge and psmisc. Takes 15 minutes on two quiet cores.
#   tests/slurm/run.sh
# The smoke study cut to its arms tfidf and embedding, the latter with more steps. It runs
# 1. to its report; 2. with the node of a training job killed; 3. with a time limit that is too
# short, if training takes more than two minutes. 2 and 3 have to give the predictions of 1, unaided.
set -euo pipefail
cd "$(dirname "$0")/../.."
WORK=$(mktemp -d /tmp/slurm-test.XXXX)
HERE=$(hostname)

# --- the cluster ----------------------------------------------------------------------------
mkdir -p "$WORK"/{state,log} /run/munge /etc/slurm
chown munge /run/munge
cat > "$WORK/slurm.conf" <<CONF
ClusterName=two
SlurmctldHost=$HERE
SlurmUser=root
StateSaveLocation=$WORK/state
SlurmdSpoolDir=$WORK/spool-%n
SlurmctldPidFile=$WORK/slurmctld.pid
SlurmdPidFile=$WORK/slurmd-%n.pid
SlurmctldLogFile=$WORK/log/slurmctld.log
SlurmdLogFile=$WORK/log/slurmd-%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
ReturnToService=2
SlurmdTimeout=10
MinJobAge=300
NodeName=n1 NodeHostname=$HERE Port=17001 CPUs=1 RealMemory=9000
NodeName=n2 NodeHostname=$HERE Port=17002 CPUs=1 RealMemory=9000
PartitionName=all Nodes=n1,n2 Default=YES MaxTime=INFINITE OverTimeLimit=0 State=UP
CONF
ln -sf "$WORK/slurm.conf" /etc/slurm/slurm.conf  # the plugin takes SLURM_CONF from its jobs
pgrep -x munged > /dev/null || runuser -u munge -- munged
slurmctld
slurmd -N n1
slurmd -N n2
stop_cluster() {
    scancel --user root || true
    for file in "$WORK"/*.pid; do kill "$(cat "$file")" || true; done
}
trap stop_cluster EXIT
until [ "$(sinfo -h -t idle -o %D)" = 2 ]; do sleep 1; done

# --- the study ------------------------------------------------------------------------------
mkdir -p "$WORK/params/cut"
for file in common tfidf embedding; do cp "params/smoke/$file.yaml" "$WORK/params/cut"; done
sed -i 's/study: "smoke"/study: "cut"/; s/max_length: 32/max_length: 64/' "$WORK/params/cut/common.yaml"
sed -i 's/num_epochs: 1/num_epochs: 14\nsave_steps: 2/; s/lora_layers: 10/lora_layers: 0/' \
    "$WORK/params/cut/embedding.yaml"

study() {  # the study in a folder of its own: study NAME [more of Snakemake's arguments]
    local name=$1; shift
    make study STUDY=cut PARAMS="$WORK/params" PROFILE=slurm \
        ARGS="--config study=cut params_dir=$WORK/params runs_dir=$WORK/$name \
        figures_dir=$WORK/$name/figures jobs=runs/cut/jobs.csv $*" > "$WORK/log/$name.log" 2>&1
}
same() {  # the predictions of a study are those of the first
    python - "$WORK/whole" "$WORK/$1" <<'PYTHON'
import sys
from pathlib import Path

import numpy as np
import pandas as pd

for file in sorted(Path(sys.argv[1]).glob("cut/*/seed-0/predictions.parquet")):
    other = Path(sys.argv[2]) / file.relative_to(sys.argv[1])
    a, b = (np.stack(pd.read_parquet(f)["scores"]) for f in (file, other))
    assert np.array_equal(a, b), f"{other}: other scores"
PYTHON
}
training() {  # wait until the embedding's job in a folder has saved a checkpoint
    until compgen -G "$WORK/$1/cut/embedding/seed-0/checkpoints/checkpoint-*" > /dev/null; do
        sleep 0.5
    done
}
export PATH=$PWD/.venv/bin:$PATH

echo "1. to its report"
study whole
test -s "$WORK/whole/figures/cut/report.html"

echo "2. the node is killed"
study killed &
training killed
node=$(squeue -h -t running -o "%N %k" | awk '/embedding/ {print $1}')
kill -9 "$(cat "$WORK/slurmd-$node.pid")"
for root in $(pgrep -f "slurmstepd: .*" ); do
    job=$(tr '\0' ' ' < "/proc/$root/cmdline" | grep -o '[0-9]*\.' | head -1)
    squeue -h -j "${job%.}" -w "$node" | grep -q . || continue
    pstree -p "$root" | grep -o '([0-9]*)' | tr -d '()' | xargs kill -9 || true  # threads too
done
wait $!
same killed
slurmd -N "$node"

echo "3. the time is too short"
study late --retries 8 --set-resources arm:runtime=2
same late
grep "stopped at step" "$WORK/log/late.log"
echo "all recovered unaided: $WORK"
