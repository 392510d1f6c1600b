#!/usr/bin/env bash
# From nothing to a result: installs align, trains micro models from scratch, and aligns them.
#   bash scripts/quickstart.sh        one seed of each method, about fifteen minutes on two cores
set -euo pipefail
cd "$(dirname "$0")/.."
bash scripts/install.sh
export HF_HUB_DISABLE_TELEMETRY=1
align="${ALIGN_VENV:-.venv}/bin/align"
echo "== the 3D-properties: plain DPO ruins a small model, two regularizers mend it"
"$align" train micro/dpo-3d
echo "== DICE: rounds of learning from its own implicit rewards, without a label"
"$align" run micro/dice --jobs 2
echo "== CPO: what a tree search finds, at the price of plain decoding"
"$align" run micro/cpo
echo "== code preferences: programs judged by running their tests in the sandbox"
"$align" run micro/code
