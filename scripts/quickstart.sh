#!/usr/bin/env bash
# From nothing to a result: installs align, trains a micro model from scratch, and aligns it four ways.
#   bash scripts/quickstart.sh                          one seed, about four minutes on two cores
#   bash scripts/quickstart.sh 'seeds=[0,1,2,3,4]'      the README's table, about twelve
set -euo pipefail
cd "$(dirname "$0")/.."
bash scripts/install.sh
export HF_HUB_DISABLE_TELEMETRY=1
"${ALIGN_VENV:-.venv}/bin/align" train micro/dpo-3d "$@"
