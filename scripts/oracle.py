"""What the micro runs of every method give at a fixed seed: recorded before a change, compared after it.

    python scripts/oracle.py record before.json     # about three minutes on one core
    python scripts/oracle.py compare before.json

Compared are digests of trees with their scores and edges, in their order, and of the trained weights. Floating point differs between
machines: record and compare on one.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from kill_run import contents

SMALL = ("variants={}", "seeds=[0]", "training.max_steps=6", "training.num_train_epochs=1")
SELM = (
    "rounds.exploration=policy", "rounds.candidates=samples_and_data", "rounds.replay=0.0", "training.loss_type=[selm]",
    "rounds.scorers=[{name: length}]",
)  # fmt: skip
RUNS: dict[str, tuple[str, ...]] = {
    "dpo": ("micro/dpo-3d", "data.limit=40", "measure.0.problems=40"),
    "dice": ("micro/dice", "rollouts.limit=24", "measure.0.problems=8"),
    "selm": ("micro/dice", "rollouts.limit=24", "measure.0.problems=8", *SELM),
    "cpo": ("micro/cpo", "rollouts.limit=24", "measure.0.problems=16"),
    "cpo-self": ("micro/cpo-self", "rollouts.limit=12", "measure.0.problems=8"),
    "code": ("micro/code", "rollouts.limit=24", "measure.0.problems=12", "measure.0.samples=1"),
}


def digests(name: str, folder: Path) -> dict[str, str]:
    """Carry a run out, and take the digests of what it leaves, by path."""
    recipe, *overrides = RUNS[name]
    command = [sys.executable, "-m", "align.cli", "run", recipe, *SMALL, *overrides, f"training.output_dir={folder}"]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "TQDM_DISABLE": "1"}, check=False)
    if done.returncode:
        sys.exit(f"{name}: {done.stderr}")
    return {path: hashlib.sha256(content).hexdigest() for path, content in contents(folder).items()}


def main() -> int:
    """Returns 1 where something differs."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("record", "compare"))
    parser.add_argument("file", type=Path)
    parser.add_argument("--runs", nargs="+", choices=RUNS, default=list(RUNS))
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        found = {name: digests(name, Path(scratch) / name) for name in options.runs}
    if options.what == "record":
        options.file.write_text(json.dumps(found, indent=1))
        return 0
    before = json.loads(options.file.read_text())
    differing = False
    for name, mine in found.items():
        other = before[name]
        wrong = sorted(path for path in {*mine, *other} if mine.get(path) != other.get(path))
        differing |= bool(wrong)
        print(f"{name}: {len(mine)} files, {'differs in ' + ', '.join(wrong) if wrong else 'the same'}", flush=True)
    return int(differing)


if __name__ == "__main__":
    sys.exit(main())
