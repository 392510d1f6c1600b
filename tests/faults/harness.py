"""Runs with one failing file operation: where they can fail, what they say then, and whether the next command ends as if nothing had been."""

import errno
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from small_runs import SmallRun

HERE = Path(__file__).parent
COMMAND = "command"
FOREVER = -1
KILL = -9
TIMES = {
    "seconds",
    "finished",
    "train_runtime",
    "train_samples_per_second",
    "train_steps_per_second",
    "tokens_per_second",
    "versions",
    "commit",
}
"""Keys of what a run writes that are times, or say where it ran."""


@dataclass(frozen=True)
class Fault:
    """A file operation that fails.

    Attributes:
        process: "command", or the stage whose process meets it.
        first: number of the operation, among those of the process below the run's folder.
        times: how many from there on fail, -1 for all.
        error: an error's number, or -9: the process is killed.
        torn: half of what was to be written is on the disk.
    """

    process: str
    first: int
    times: int
    error: int
    torn: bool = False

    def __str__(self) -> str:
        name = "kill" if self.error == KILL else errno.errorcode[self.error]
        return f"{self.process} {self.first} {name}{' from then on' if self.times == FOREVER else ''}{' torn' if self.torn else ''}"


@dataclass(frozen=True)
class Ended:
    """How a command ended, and all that it and its stages said."""

    status: int | str
    said: str

    def fault(self) -> str | None:
        """What is wrong with how it ended; None where it went on, was killed, or said in a sentence what it could not do."""
        if "Traceback" in self.said or "Logging error" in self.said or "Fatal Python error" in self.said:
            return "a traceback"
        if self.status in (0, KILL):
            return None
        if self.status != 2:
            return f"status {self.status}"
        sentences = [line for line in self.said.splitlines() if line.startswith("align: ")]
        return None if 1 <= len(sentences) <= 2 else f"{len(sentences)} sentences"


class Zygote:
    """The process that carries commands out in forks of itself, with the layer loaded."""

    def __init__(self, folder: Path, kind: str) -> None:
        """Args: folder for the built layer, and for caches; kind, "toy" or "training", which says what is imported before the forks."""
        self.kind, self._said = kind, folder / "said.txt"
        layer = build(folder)
        environment = {
            **os.environ, "LD_PRELOAD": str(layer), "TOKENIZERS_PARALLELISM": "false", "HF_HOME": str(folder / "hf"), "OMP_NUM_THREADS": "1",
            "PYTHONPATH": os.pathsep.join([str(HERE.parents[1]), os.environ.get("PYTHONPATH", "")]),
        }  # fmt: skip
        with open(folder / "zygote.txt", "w") as log:
            command = [sys.executable, str(HERE / "zygote.py"), kind]
            self._process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, text=True, env=environment, start_new_session=True
            )
        assert self._process.stdout.readline() == "ready\n", (folder / "zygote.txt").read_text()

    def run(self, run: SmallRun, until: str | None, fault: Fault | None = None, count: Path | None = None) -> Ended:
        """`align run` up to a stage."""
        order = {
            "arguments": [str(run.recipe), *(["--until", until] if until else [])], "folder": f"{run.folder}/", "said": str(self._said),
            "script": str(run.script) if run.script else None, "fault": asdict(fault) if fault else None, "count": str(count) if count else None, "is_toy": run.is_toy,
        }  # fmt: skip
        self._process.stdin.write(json.dumps(order) + "\n")
        self._process.stdin.flush()
        return Ended(**json.loads(self._process.stdout.readline()))

    def close(self) -> None:
        self._process.stdin.close()
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            os.killpg(self._process.pid, signal.SIGKILL)


def build(folder: Path) -> Path:
    """The layer, built by the C compiler."""
    target = folder / "layer.so"
    subprocess.run(["cc", "-O1", "-shared", "-fPIC", "-o", target, HERE / "layer.c", "-ldl"], check=True, capture_output=True)
    return target


@dataclass(frozen=True)
class Step:
    """One command of an undisturbed run: how far it goes, what the folder held before, and the operations of each process."""

    until: str | None
    stage: str
    before: Path
    operations: dict[str, list[str]]


class Undisturbed:
    """A run carried out stage by stage, with what it left, and copies of its folder from before each stage."""

    def __init__(self, zygote: Zygote, run: SmallRun, scratch: Path) -> None:
        """Args: scratch, where the copies go."""
        self.run, self._zygote = run, zygote
        stages = run.stages
        self.steps: list[Step] = []
        for number, stage in enumerate(stages):
            before, count = scratch / f"before-{number}", scratch / f"count-{number}"
            run.folder.mkdir(parents=True, exist_ok=True)
            shutil.copytree(run.folder, before)
            count.mkdir()
            until = stage if number < len(stages) - 1 else None
            ended = zygote.run(run, until, count=count)
            assert ended.status == 0, ended.said
            operations = {file.name.replace("~", "/"): file.read_text().splitlines() for file in sorted(count.iterdir())}
            self.steps.append(Step(until, stage, before, operations))
        self.content = contents(run.folder)

    def points(self) -> list[tuple[Step, Fault]]:
        """Every operation with every fault that it can meet."""
        return [
            (step, fault)
            for step in self.steps
            for process, operations in step.operations.items()
            for number, operation in enumerate(operations)
            for fault in faults_at(process, number, operation)
        ]

    def disturbed(self, step: Step, fault: Fault) -> str | None:
        """What goes wrong when a step meets a fault and the same command is given again; None where nothing does."""
        self.restore(step)
        ended = self._zygote.run(self.run, step.until, fault)
        if wrong := ended.fault():
            return f"{fault}: {wrong}\n{ended.said[-3000:]}"
        again = self._zygote.run(self.run, step.until)
        if again.status != 0 or again.fault():
            return f"{fault}: again: {again.status}, {again.fault()}\n{ended.said[-1500:]}\n---\n{again.said[-3000:]}"
        now = contents(self.run.folder)
        expected = {name: text for name, text in self.content.items() if name in now or name.startswith(f"{step.stage}/")}
        different = [name for name in {**expected, **now} if expected.get(name) != now.get(name)]
        return f"{fault}: {different} differ\n{ended.said[-1500:]}\n---\n{again.said[-1500:]}" if different else None

    def restore(self, step: Step) -> None:
        """Put the run's folder back to what it was before a step."""
        shutil.rmtree(self.run.folder)
        shutil.copytree(step.before, self.run.folder)


def faults_at(process: str, number: int, operation: str) -> Iterator[Fault]:
    """Every fault that an operation can meet."""
    writes = operation.startswith("Write")
    for error in (errno.EIO, errno.ESTALE, errno.EACCES):
        yield Fault(process, number, 1, error)
    if operation[0] in "CWMT" or operation.startswith("rename"):
        yield Fault(process, number, FOREVER, errno.ENOSPC)
    yield Fault(process, number, 1, KILL)
    if writes:
        yield Fault(process, number, FOREVER, errno.ENOSPC, torn=True)
        yield Fault(process, number, 1, KILL, torn=True)


def contents(folder: Path) -> dict[str, object]:
    """What a run's finished stages left, without times: digests of files by their path, records of those that hold times."""
    found: dict[str, object] = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        passing = re.search(
            r"(^|/)(log\.txt|log-.*\.txt|stage\.json|lock|prepare\.lock|inputs\.json|report\.html|training_args\.bin)$|\.tmp$|\.damaged$",
            name,
        )
        if path.is_dir() or passing or re.search(r"(^|/)(progress|usage)-|/cost/|superseded/", name):
            continue
        if path.suffix in (".json", ".jsonl"):
            found[name] = [
                _timeless(json.loads(line)) for line in ([path.read_text()] if path.suffix == ".json" else path.read_text().splitlines())
            ]
        else:
            found[name] = path.read_bytes()
    return found


def _timeless(value: object) -> object:
    if isinstance(value, dict):
        kept = {key: _timeless(entry) for key, entry in value.items() if key not in (*TIMES, "checksum")}
        if "outputs" in kept and "sizes" in kept:  # a manifest: of what it lists, the names
            kept["outputs"], kept["sizes"] = sorted(kept["outputs"]), None
        return kept
    return [_timeless(entry) for entry in value] if isinstance(value, list) else value
