"""Does a run survive being killed anywhere? Runs a recipe undisturbed, then again under SIGKILL at random points.

    python scripts/kill_run.py micro/dice 'variants={}' --kills 20

Every kill hits the driver, the stages' processes, or all of them, and the same command is given again. Each run that
gets through must hold the same pairs and the same weights as the undisturbed one, to the byte.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

COMPARED = ("pairs.jsonl", "flat.jsonl", "scored.jsonl", "searches.jsonl", "model.safetensors")


def start(recipe: list[str], folder: Path) -> subprocess.Popen[bytes]:
    """The run as a process of its own; what it says goes to a file beside its folder."""
    with open(f"{folder}.log", "ab") as log:
        command = [sys.executable, "-m", "align.cli", "run", *recipe, f"training.output_dir={folder}"]
        return subprocess.Popen(command, stdout=log, stderr=log, env={**os.environ, "TQDM_DISABLE": "1"})


def stage_processes(folder: Path) -> list[int]:
    """Processes that work at a stage of the run: they have its log open."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            files = [file.readlink() for file in (entry / "fd").iterdir()]
            if any(file.is_relative_to(folder) and file.name.startswith("log") and file.suffix == ".txt" for file in files):
                found.append(int(entry.name))
    return found


def contents(folder: Path) -> dict[str, bytes]:
    """The files that must not differ, by their path in the run."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.name in COMPARED and "superseded" not in path.parts
    }


def main() -> int:
    """Returns 0 if every killed run ended as the undisturbed one."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe", nargs="+", help="a recipe and overrides")
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--longest", type=float, help="seconds between two kills at most (default: a sixth of the undisturbed run)")
    parser.add_argument("--folder", type=Path, help="where the runs go (default: a temporary folder)")
    options = parser.parse_args()
    base = (options.folder or Path(tempfile.mkdtemp())).absolute()
    base.mkdir(parents=True, exist_ok=True)
    began = time.monotonic()
    if start(options.recipe, base / "whole").wait() != 0:
        print(f"the undisturbed run failed: see {base / 'whole.log'}")
        return 1
    took = time.monotonic() - began
    expected = contents(base / "whole")
    print(f"undisturbed: {took:.0f} s, {len(expected)} files to compare", flush=True)
    if not expected:
        print(f"{base / 'whole'}: there is nothing to compare (expected files named {', '.join(COMPARED)})")
        return 1
    rng, kills, finished = random.Random(options.seed), 0, 0
    while kills < options.kills or (base / f"killed-{finished}").exists():
        folder = base / f"killed-{finished}"
        process = start(options.recipe, folder)
        if kills < options.kills:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(rng.uniform(0.5, options.longest or took / 6))
            if process.poll() is None:
                kills += 1
                workers = stage_processes(folder)
                for victim in rng.choice([[process.pid], workers, [process.pid, *workers]]):
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(victim, signal.SIGKILL)
        if process.wait() == 0:
            different = [name for name, content in contents(folder).items() if content != expected[name]]
            if different or contents(folder).keys() != expected.keys():
                print(f"{folder}: differs in {different or 'its files'} after {kills} kills")
                return 1
            finished += 1
    print(f"{kills} kills, {finished} run(s) through, all {len(expected)} files the same to the byte")
    return 0


if __name__ == "__main__":
    sys.exit(main())
