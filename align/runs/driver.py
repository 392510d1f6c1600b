"""Carries a run through its stages, each in processes of its own."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from align.errors import AlignError, InterruptedRunError, StageFaultError
from align.files import files_in
from align.imports import importing_ours
from align.runs import launch, watchdog
from align.runs.folder import RunFolder, WrittenOutputs
from align.runs.forks import ForkServer, Process, can_fork
from align.runs.journal import WHOLE, Shard, mend
from align.runs.plan import State, assess
from align.runs.stage import FINISHED, External, Stage, Task, log_of, read_specification, write_specification
from align.runs.stop_file import asked_to_stop
from align.runs.watching import LOG_STEPS, Now, StageErrors, Watcher, signs_of_life

WORKER = "align.runs.worker"
QUIET = {"TQDM_DISABLE": "1", "HF_HUB_DISABLE_PROGRESS_BARS": "1", "HF_DATASETS_DISABLE_PROGRESS_BARS": "1"}
"""What stage processes are told: the driver shows how far they are, so libraries' bars are of no use."""
GRACE = 6.0  # seconds that stage processes have between SIGTERM and SIGKILL: Slurm's own patience is often short


def execute(
    stages: Sequence[Stage],
    folder: RunFolder,
    *,
    shard: Shard | None = None,
    stop: threading.Event | None = None,
    say: Callable[[str], None] = print,
    watcher: Watcher | None = None,
    environment: Mapping[str, str] | None = None,
    forks: ForkServer | None = None,
    here: Mapping[str, Callable[[Task], None]] | None = None,
) -> bool:
    """Bring every stage up to date, in order.

    Args:
        stages: in an order in which each follows its inputs.
        folder: of the run.
        shard: do only this part of the first stage that is to be done, and stop (a task of a Slurm array); the run
            goes on once all parts are there.
        stop: set by a signal handler to interrupt the run.
        say: told a line when a stage begins, and one when it is done.
        watcher: told how far the stages are, and what their processes write for the user to standard error.
        environment: variables for the stage processes.
        forks: what begins stages, where several runs share it; left out, one of this run's own.
        here: by the name of a stage's function, what is called in its place in this process, instead of starting another.

    Returns:
        Whether all stages are done (a shard alone may leave the others' parts open).

    Raises:
        InterruptedRunError: `stop` was set, or the stop file made (a training saves a checkpoint then; other stages are ended).
        AlignError: a stage failed; the watcher was told why.
    """
    stop, watcher = stop or threading.Event(), watcher or Watcher()
    own_forks = ForkServer() if forks is None else contextlib.nullcontext(forks)
    with own_forks as forks, folder.locked(shared=shard is not None) as lock:
        with folder.preparing():
            for stage in stages:
                for sentence in folder.put_damaged_aside(stage.name):
                    say(sentence)
        for known in assess(stages, folder):
            if known.kind == "done":
                say(f"{known.stage.name:<20} done already")
        written = WrittenOutputs(folder)
        while (state := _next(stages, folder, written)) is not None:
            if state.altered:
                say(f"{state.stage.name:<20} {state.reason}: it is made again")
            if state.kind == "restore":
                _take_back(folder, state)
                say(f"{state.stage.name:<20} done before with these settings: taken back")
                continue
            if shard is not None and "processes" not in state.stage.resources:
                raise AlignError(f"--shard {shard}: the next stage, {state.stage.name}, is not shared out: run without --shard")
            if asked_to_stop():
                raise _interrupted(state.stage.name)
            states = _of_one_process(stages, state, folder, written)
            with folder.preparing():
                for one in states:
                    _prepare(folder, one)
            count = int(state.stage.resources.get("processes", 1))
            shards = [shard] if shard else [Shard(i, count) for i in range(count)]
            if own := (here or {}).get(state.stage.function):
                processed = _run_here(folder, state, own)
            else:
                processed = _run(folder, states, shards, lock, stop, environment, forks, watcher)
            for finished, seconds in _watched(processed, states, stages, folder, watcher, say):
                if shard is not None:
                    say(f"{finished.stage.name:<20} shard {shard} done; when all are, run without --shard to go on")
                    return False
                assert finished.key is not None
                folder.finish(finished.stage.name, finished.key, seconds)
                written.note(finished.stage.name)
                say(f"{finished.stage.name:<20} done in {seconds:.0f} s")
    return True


def _watched(
    processed: Iterable[State], states: Sequence[State], stages: Sequence[Stage], folder: RunFolder, watcher: Watcher,
    say: Callable[[str], None],
) -> Iterator[tuple[State, float]]:  # fmt: skip
    """Stages as they are finished, with the seconds that each took; what begins is said, and what runs is shown to the watcher."""
    numbers = {stage.name: number for number, stage in enumerate(stages, 1)}
    waiting = deque(states)
    now = Now(folder.stage(waiting[0].stage.name), waiting[0].stage.name)

    def begin() -> None:
        name, how = waiting[0].stage.name, "goes on" if waiting[0].kind == "resume" else "begins"
        now.begin(folder.stage(name), name)
        say(f"[{numbers[name]}/{len(stages)}] {name} {how}")

    begin()
    with signs_of_life(watcher, now):
        for finished in processed:
            yield finished, now.seconds
            waiting.popleft()
            if waiting:
                begin()


def _run_here(folder: RunFolder, state: State, function: Callable[[Task], None]) -> Iterator[State]:
    """Run a stage in this process, by a function in the place of its own."""
    function(read_specification(folder.stage(state.stage.name), WHOLE)[1])
    yield state


def _next(stages: Sequence[Stage], folder: RunFolder, written: WrittenOutputs) -> State | None:
    return next((state for state in assess(stages, folder, written.altered) if state.kind not in ("done", "wait")), None)


def _of_one_process(stages: Sequence[Stage], first: State, folder: RunFolder, written: WrittenOutputs) -> list[State]:
    """A stage that is to be done, with those behind it that run in the same process (see `Stage.resources`)."""
    process = first.stage.resources.get("process")
    if process is None:
        return [first]
    open_states = [state for state in assess(stages, folder, written.altered) if state.kind in ("resume", "run")]
    return [state for state in open_states if state.stage.resources.get("process") == process]


def _take_back(folder: RunFolder, state: State) -> None:
    assert state.key is not None
    if folder.stage(state.stage.name).exists():
        folder.set_aside(state.stage.name)
    folder.bring_back(state.stage.name, state.key)


def _prepare(folder: RunFolder, state: State) -> None:
    """Make the stage's folder ready: an interrupted one as it is, one for other settings aside."""
    name, stage = state.stage.name, state.stage
    here = folder.stage(name)
    assert state.key is not None
    if here.exists() and folder.key_in_work(name) != state.key:
        folder.set_aside(name)
    for mark in (here / "manifest.json", here / FINISHED, *files_in(here, "progress-*.json")):
        mark.unlink(missing_ok=True)
    here.mkdir(parents=True, exist_ok=True)
    if state.altered:
        _remove(here / state.altered)
    inputs = {
        key: source.source if isinstance(source, External) else str(folder.stage(source.stage) / source.path)
        for key, source in stage.inputs.items()
    }
    write_specification(Task(name, here, stage.settings, inputs, stage.resources), stage.function, state.key)


def _remove(output: Path) -> None:
    """Take away an output that is not what was written; of journals, the lines that are not."""
    if output.is_file():
        output.unlink()
    elif files_in(output, "part-*.jsonl"):
        mend(output)
    elif output.is_dir():
        shutil.rmtree(output)


def _run(
    folder: RunFolder, states: Sequence[State], shards: list[Shard], lock: int, stop: threading.Event,
    environment: Mapping[str, str] | None, forks: ForkServer, watcher: Watcher,
) -> Iterator[State]:  # fmt: skip
    """Start the processes of a stage, or of several that share one, and wait for them; yields the stages as they are finished."""
    waiting = deque(states)
    folders = [folder.stage(state.stage.name) for state in states]
    started: list[Process] = []
    errors: list[StageErrors] = []
    variables = {LOG_STEPS: str(int(watcher.log_steps)), **(environment or {})}
    dogs: list[subprocess.Popen[bytes]] = []
    try:
        for shard in shards:
            errors.append(StageErrors(lambda shard=shard: log_of(folder.stage(waiting[0].stage.name), shard), watcher))  # type: ignore[misc]
            one = _start(folders, [state.stage for state in states], shard, lock, variables, forks, stop, errors[-1].descriptor)
            started.append(one)
            errors[-1].close()
            dogs.append(_watchdog(started[-1].pid, lock))
        while any(process.poll() is None for process in started):
            while len(waiting) > 1 and (folder.stage(waiting[0].stage.name) / FINISHED).exists():
                yield waiting.popleft()
            failed = any(process.poll() not in (None, 0) for process in started)
            ended = asked_to_stop() and not waiting[0].stage.resources.get("saves_when_asked")
            if stop.wait(0.05) or failed or ended:
                break
    finally:
        _end(started)
        for pipe in errors:
            pipe.finish()
        for dog in dogs:
            dog.communicate(b"!")
    while len(waiting) > 1 and (folder.stage(waiting[0].stage.name) / FINISHED).exists():
        yield waiting.popleft()
    name = waiting[0].stage.name
    here = folder.stage(name)
    if stop.is_set() or (asked_to_stop() and any(process.returncode for process in started)):
        raise _interrupted(name)
    told = (2,) if waiting[0].stage.resources.get("accelerate") else (1, 2)  # a launcher's 1 says that a process failed, and not how
    for process, shard in zip(started, shards, strict=True):
        status = process.returncode or 0
        if status not in (0, *told):
            how = f"was ended by signal {-status}" if status < 0 else f"ended with status {status}"
            part = f" (shard {shard})" if len(shards) > 1 else ""
            raise AlignError(f"{name}{part}: its process {how}: see {log_of(here, shard)}, then run the same command to go on")
    if any(process.returncode for process in started):
        kind = StageFaultError if any(process.returncode == 1 for process in started) else AlignError
        where = "above" if any(pipe.told for pipe in errors) else log_of(here, shards[0])
        raise kind(f"{name} failed: see {where}; what it finished is kept in {here}")
    yield from waiting


def _interrupted(stage: str) -> InterruptedRunError:
    return InterruptedRunError(f"interrupted in {stage}: run the same command to go on")


def _start(
    folders: Sequence[Path], stages: Sequence[Stage], shard: Shard, lock: int, environment: Mapping[str, str] | None, forks: ForkServer,
    stop: threading.Event, errors: int,
) -> Process:  # fmt: skip
    """Begin the process of a shard of a stage, or of several that share it: as a fork where that can be, else as an interpreter."""
    resources, arguments = stages[0].resources, [*map(str, folders), str(shard)]
    inherited = {**launch.of_no_group(os.environ), "PYTHONUTF8": "1", **QUIET, **(environment or {})}  # files are UTF-8
    variables = importing_ours(inherited)
    if shard.count > 1:
        variables |= _own_devices(shard, int(resources.get("gpus_per_process", 1)))
    if config := resources.get("accelerate"):
        command = launch.over_nodes(str(config), WORKER, arguments, os.environ)
    else:
        if can_fork(os.environ) and (process := forks.start(stages, arguments, variables, lock, stop, errors)) is not None:
            return process
        if stop.is_set():
            raise _interrupted(stages[0].name)
        command = [sys.executable, "-m", WORKER, *arguments]
    return subprocess.Popen(command, env=variables, start_new_session=True, pass_fds=[lock], stderr=errors)


def _watchdog(group: int, lock: int) -> subprocess.Popen[bytes]:
    """A process that outlives this one just long enough to end the stage's processes."""
    command = [sys.executable, "-S", watchdog.__file__, str(group), str(GRACE)]
    return subprocess.Popen(command, stdin=subprocess.PIPE, start_new_session=True, pass_fds=[lock])


def _own_devices(shard: Shard, each: int) -> dict[str, str]:
    """The GPUs of one of several processes on a node; empty where there are none."""
    devices = launch.visible_gpus(os.environ)
    if not devices:
        return {}
    mine = [devices[(shard.index * each + i) % len(devices)] for i in range(each)]
    return {"CUDA_VISIBLE_DEVICES": ",".join(mine)}


def _end(processes: Sequence[Process]) -> None:
    """SIGTERM to whatever still runs, with its children; SIGKILL after the grace."""
    for process in processes:
        _signal(process, signal.SIGTERM)
    deadline = time.monotonic() + GRACE
    for process in processes:
        try:
            process.wait(max(0.0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            _signal(process, signal.SIGKILL)
            process.wait()
        with contextlib.suppress(ProcessLookupError):  # what it may have left behind, such as an engine's own processes
            os.killpg(process.pid, signal.SIGKILL)


def _signal(process: Process, number: int) -> None:
    if process.poll() is None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, number)
