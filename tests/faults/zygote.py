"""A process that has imported all that runs need, and carries `align run` out in forks of itself: a stage begins in a hundredth of a second.

Run with the layer loaded (LD_PRELOAD). Reads orders as JSON lines on standard input, answers each with a line.
"""

import atexit
import contextlib
import ctypes
import faulthandler
import gc
import importlib
import json
import os
import subprocess
import sys
import time
import traceback
from dataclasses import replace
from pathlib import Path

from align import checks, cli, plans
from align.runs import RunFolder, driver, worker

sys.path[:0] = [str(Path(__file__).parent.parent / name) for name in ("", "runs", "faults")]
TRAINING = (
    "deepspeed", "torch", "eval.chain_of_thought", "eval.code", "eval.report.tracking", "data_pipelines.code_execution.stages", "align.experiment",
    "data_pipelines.implicit_rewards.data_responses", "data_pipelines.implicit_rewards.filtering", "data_pipelines.implicit_rewards.pairing",
    "data_pipelines.implicit_rewards.scoring", "data_pipelines.rollouts.stages", "data_pipelines.rollouts.transformers_engine",
    "data_pipelines.thought_trees.stages",
)  # fmt: skip
"""What the stages of trainings import, deepspeed among it, which accelerate imports where it is installed."""
TOYS = ("toy_stages", "toy_plan", "eval.report.tracking", "data_pipelines.rollouts.stages")
LAYER = ctypes.CDLL(os.environ["LD_PRELOAD"])
COMMAND = "command"  # the process of the command itself, in the place of a stage's name


class Forked:
    """What the driver sees of a stage's process: as much of `subprocess.Popen` as it uses."""

    def __init__(self, run) -> None:
        self.returncode = None
        self.pid = os.fork()
        if self.pid == 0:
            os.setsid()
            leave(run)

    def poll(self):
        if self.returncode is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                self.returncode = os.waitstatus_to_exitcode(status)
        return self.returncode

    def wait(self, timeout=None):
        deadline = None if timeout is None else time.monotonic() + timeout
        while self.poll() is None:
            if deadline is not None and time.monotonic() > deadline:
                raise subprocess.TimeoutExpired("stage", timeout)
            time.sleep(0.002)
        return self.returncode


def leave(run) -> None:
    """Run to the end of this process, with the exit status that Python would give."""
    status = 1
    try:
        status = run()
    except SystemExit as exit:
        status = exit.code if isinstance(exit.code, int) else 0 if exit.code is None else 1
    except BaseException:
        traceback.print_exc()
    with contextlib.suppress(BaseException):
        atexit._run_exitfuncs()
    LAYER.faults_disarm()
    with contextlib.suppress(BaseException):
        sys.stdout.flush()
        sys.stderr.flush()
    os._exit(status)


def arm(order, process) -> None:
    """Have the layer fail an operation of this process if the order says so, or write down all of them."""
    fault = order.get("fault")
    if order.get("count"):
        LAYER.faults_arm(os.fsencode(order["folder"]), ctypes.c_long(-1), ctypes.c_long(0), 0, 0)
        path = Path(order["count"]) / process.replace("/", "~")
        LAYER.faults_write_down(os.open(path, os.O_CREAT | os.O_WRONLY | os.O_APPEND, 0o644))
    elif fault and fault["process"] == process:
        first, times = ctypes.c_long(fault["first"]), ctypes.c_long(fault["times"])
        LAYER.faults_arm(os.fsencode(order["folder"]), first, times, fault["error"], int(fault["torn"]))


def start_by_fork(order):
    """The driver's `_start` with a fork in the place of a new interpreter."""

    def start(folders, stages, shard, lock, environment, forks, stop, errors):
        def run():
            os.dup2(errors, 2)
            sys.stderr = open(2, "w", buffering=1, closefd=False)  # noqa: SIM115  the one before was of a file, which can be sought in
            os.environ.update(environment or {})
            arm(order, stages[0].name)
            return worker.main(*map(str, folders), str(shard))

        return Forked(run)

    return start


def scripted(runs_of, script):
    """Recipes whose sampling stages write what a script says."""

    def with_script(recipe):
        runs = runs_of(recipe)
        return [replace(run, stages=[_with_script(stage, script) for stage in run.stages]) for run in runs]

    return with_script


def _with_script(stage, script):
    if stage.function != "data_pipelines.rollouts.stages:sample":
        return stage
    engine = stage.settings["engine"]
    options = {"engine": engine["engine"], "options": engine["options"], "script": script}
    return replace(stage, settings={**stage.settings, "engine": {**engine, "engine": "scripted", "options": options}})


def carry_out(order) -> int:
    """`align run …` in this process, its stages in forks."""
    faulthandler.enable()
    driver._start = start_by_fork(order)
    if order.get("script"):
        plans.runs_of = scripted(plans.runs_of, order["script"])
    if order["is_toy"]:
        import toy_plan

        checks.check = lambda run: None
        plans.runs_of = lambda recipe: [plans.Run("run", recipe, RunFolder(recipe.training["output_dir"]), toy_plan.stages())]
    out = os.open(order["said"], os.O_CREAT | os.O_WRONLY | os.O_TRUNC, 0o644)
    os.dup2(out, 1)
    os.dup2(out, 2)
    arm(order, COMMAND)
    return cli.main(["run", *order["arguments"]])


def main() -> None:
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print when they are imported is no answer
    for module in TOYS if sys.argv[1:] == ["toy"] else TRAINING:
        importlib.import_module(module)
    gc.collect()
    gc.freeze()  # pages that forks share
    print("ready", file=answers, flush=True)
    for line in sys.stdin:
        order = json.loads(line)
        process = Forked(lambda order=order: carry_out(order))
        try:
            status = process.wait(120)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, 9)
            status = "still running after two minutes"
        print(json.dumps({"status": status, "said": Path(order["said"]).read_text(errors="replace")}), file=answers, flush=True)


if __name__ == "__main__":
    main()
