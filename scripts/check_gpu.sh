#!/usr/bin/env bash
# All checks that need a GPU, and the tables of scripts/bench.py --device cuda: under eight minutes on one H100.
# Needs torch, transformers, peft, trl and pytest; with pytest-xdist the tests share the card, with liger-kernel its rows are run.
#   bash scripts/check_gpu.sh [options of scripts/bench.py, such as --json gpu.json]
set -uo pipefail
cd "$(dirname "$0")/.."
python="${PYTHON:-python3}"
export PYTHONPATH="$PWD${PYTHONPATH:+:$PYTHONPATH}" HF_HUB_OFFLINE=1 TQDM_DISABLE=1
"$python" -c 'import torch' 2>/dev/null || { echo "check_gpu.sh: $python has no torch: set PYTHON to one that has" >&2; exit 1; }
"$python" -c 'import torch, sys; sys.exit(0 if torch.cuda.is_available() else "check_gpu.sh: torch sees no GPU here")' || exit 1
parallel=()
"$python" -c 'import xdist' 2>/dev/null && parallel=(-n "$(( $(nproc) < 8 ? $(nproc) : 8 ))")
"$python" -m pytest -q -m gpu "${parallel[@]}" tests/engine/test_gpu.py
tests=$?
"$python" scripts/bench.py --device cuda "$@"
table=$?
exit $(( tests || table ))
