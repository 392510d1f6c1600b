# What the job scripts share; sourced by them.
#
# The cluster's own ways stand in one file, ~/.config/align/slurm.sh or $ALIGN_SLURM_SETTINGS, read before a job is submitted and again in it:
#   SBATCH_PARTITION=gpu SBATCH_ACCOUNT=lab SBATCH_TIMELIMIT=24:00:00     Slurm's own names
#   ALIGN_VENV=/shared/align/.venv                                        activated in the job
#   ALIGN_RUNNER="apptainer exec --nv align.sif"                          stands in front of every align command
#   module load cuda; export NCCL_SOCKET_IFNAME=ib0                       anything else
set -euo pipefail
settings=${ALIGN_SLURM_SETTINGS:-$HOME/.config/align/slurm.sh}
[ ! -f "$settings" ] || source "$settings"
[ -z "${ALIGN_VENV:-}" ] || source "$ALIGN_VENV/bin/activate"
export ALIGN_RUNNER # training of a run starts on the other nodes by it
runner=(${ALIGN_RUNNER:-})
echo "align: job $SLURM_JOB_ID on $SLURM_JOB_NODELIST, start $((${SLURM_RESTART_COUNT:-0} + 1)), $(date '+%F %T')"

# Once this file exists, a training saves a checkpoint and ends; everything else is saved as it comes, and ends at once.
export ALIGN_STOP_FILE=$PWD/align-stop-$SLURM_JOB_ID
rm -f "$ALIGN_STOP_FILE"
trap 'rm -f "$ALIGN_STOP_FILE"' EXIT

# Run a command as the job. Near the time limit (USR1, see --signal) it is asked to stop, and ended if it does not within so many
# seconds; then the job queues again. scancel just ends it.
patience=${ALIGN_PATIENCE:-240}
as_job() {
  "$@" &
  child=$!
  again=
  late=
  trap 'again=yes; touch "$ALIGN_STOP_FILE" || true; (sleep "$patience"; kill -TERM $child 2>/dev/null) & late=$!' USR1
  trap 'kill -TERM $child 2>/dev/null || true' TERM
  status=0
  while true; do
    wait $child && status=0 || status=$?
    kill -0 $child 2>/dev/null || break # a signal ends `wait`, not the command
  done
  [ -z "$late" ] || kill "$late" 2>/dev/null || true
  if [ -n "$again" ] && [ "$status" != 0 ]; then
    echo "align: job $SLURM_JOB_ID ran into its time limit and queues again; it goes on where it stopped"
    scontrol requeue "$SLURM_JOB_ID"
  elif [ "$status" != 0 ]; then
    echo "align: job $SLURM_JOB_ID ended with status $status; submit it again and it goes on where it stopped" >&2
  fi
  exit "$status"
}
