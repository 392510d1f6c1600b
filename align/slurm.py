"""The Slurm jobs of a recipe: which there are, in which order, and how they are submitted. Slurm does the rest."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from align.errors import AlignError, nearest
from align.plans import runs_of
from align.recipes import Recipe

_CHECKOUT = Path(__file__).parent.parent / "scripts" / "slurm"
SCRIPTS = _CHECKOUT if _CHECKOUT.is_dir() else Path(sys.prefix) / "share" / "align" / "slurm"


@dataclass(frozen=True)
class Machine:
    """What is asked for.

    Attributes:
        nodes: for training.
        gpus: of a node; 0 asks for none.
        shards: tasks of a sampling array; None: the run's own job samples.
        at_once: of which so many run at a time.
    """

    nodes: int = 1
    gpus: int = 8
    shards: int | None = None
    at_once: int = 16


@dataclass(frozen=True)
class Job:
    """One job: its script, what it asks Slurm for, and `align run` options."""

    script: str
    asks: tuple[str, ...]
    options: tuple[str, ...] = ()


def jobs_of(recipe: Recipe, machine: Machine) -> list[Job]:
    """The jobs of a recipe, each to start when the one before is done.

    Raises:
        AlignError: shards are asked for, but the recipe samples nothing, or is several runs; it trains, but does not say how to launch.
    """
    for name, count in (("--nodes", machine.nodes), ("--shards", machine.shards), ("--at-once", machine.at_once)):
        if count is not None and count < 1:
            raise AlignError(f"{name} {count}: expected 1 or more")
    nodes = (f"--nodes={machine.nodes}", *_gpus(machine.gpus))
    if machine.shards is None:
        staged = recipe.method.makes_preferences
        if not staged and recipe.resources.accelerate is None:
            raise AlignError("resources.accelerate is missing: name a configuration, such as resources.accelerate=zero3")
        return [Job("run.sbatch" if staged else "train.sbatch", nodes)]
    runs = runs_of(recipe)
    stages = [(stage.name, stage.resources.get("gpus_per_process")) for stage in runs[0].stages]
    if len(runs) > 1:
        raise AlignError("--shards: the recipe has several variants or seeds; submit each by itself, or leave out --shards")
    if not any(each for _, each in stages):
        raise AlignError("--shards: this recipe samples nothing")
    jobs, before = [], None
    for name, each in stages:
        if each and before:
            jobs.append(Job("run.sbatch", nodes, ("--until", before)))
        if each:
            array = f"--array=0-{machine.shards - 1}%{machine.at_once}"
            jobs.append(Job("rollouts.sbatch", (array, *_gpus(min(machine.gpus, each)))))
        before = name
    return [*jobs, Job("run.sbatch", nodes)]


def write(jobs: Sequence[Job], recipe: Sequence[str], folder: Path) -> Path:
    """Write `submit.sh`, which submits the jobs.

    Args:
        jobs: in their order.
        recipe: its name and overrides.
        folder: of the run.
    """
    lines = [
        "#!/bin/bash",
        f"# Written by `align slurm`: the jobs of {' '.join(recipe[0].split())}, each to start when the one before is done.",
        "set -euo pipefail",
        f"cd {shlex.quote(os.getcwd())}",
        f"export ALIGN_SLURM_HOME={shlex.quote(str(SCRIPTS))}",
        "settings=${ALIGN_SLURM_SETTINGS:-$HOME/.config/align/slurm.sh}",
        'if [ -f "$settings" ]; then set -a; source "$settings"; set +a; fi',
    ]
    after = ""
    for number, job in enumerate(jobs):
        words = [*job.asks, f"{SCRIPTS}/{job.script}", *recipe, *job.options]
        lines.append(f"job{number}=$(sbatch --parsable{after} {shlex.join(words)})")
        said = shlex.quote(f": {job.script.removesuffix('.sbatch')} {' '.join(job.options)}")
        lines.append(f'echo "job $job{number}"{said}')
        after = f" --dependency=afterok:$job{number} --kill-on-invalid-dep=yes"
    path = folder / "slurm" / "submit.sh"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def submit(script: Path) -> str:
    """Submit the jobs; what `sbatch` says, a line a job.

    Raises:
        AlignError: Slurm is not there, or does not take a job.
    """
    try:
        found = subprocess.run(["bash", str(script)], capture_output=True, text=True, check=False)
    except FileNotFoundError as error:
        raise AlignError(f"{script}: {error}") from error
    if found.returncode:
        raise AlignError(f"{script}: {_reason(found.stderr)}")
    return found.stdout.strip()


def _gpus(count: int) -> tuple[str, ...]:
    return (f"--gpus-per-node={count}",) if count else ()


def _reason(errors: str) -> str:
    """What Slurm said, in one sentence."""
    if "sbatch: command not found" in errors:
        return "there is no Slurm here (sbatch was not found): write the jobs here, and submit them where it is"
    if unknown := re.search(r"invalid partition specified: (\S+)", errors):
        listed = subprocess.run(["sinfo", "--noheader", "--format=%R"], capture_output=True, text=True, check=False).stdout.split()
        return f"there is no partition '{unknown[1]}' (SBATCH_PARTITION): {nearest(unknown[1], set(listed))}"
    said = [line.removeprefix("sbatch: ").removeprefix("error: ") for line in errors.splitlines() if line.startswith("sbatch:")]
    return "; ".join(said) or errors.strip() or "sbatch failed without a word"
