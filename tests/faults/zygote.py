"""A process that has imported all that runs need, and carries `align run` out in forks of itself: a stage begins in a hundredth of a second.

Run with the layer loaded (LD_PRELOAD). Reads orders as JSON lines on standard input, answers each with a line.
"""

import atexit
import contextlib
import ctypes
import faulthandler
import gc
import json
import os
import subprocess
import sys
import time
import traceback
from dataclasses import replace
from pathlib import Path

ANSWERS = os.fdopen(os.dup(1), "w")
os.dup2(2, 1)  # what libraries print when they are imported is no answer

import deepspeed  # accelerate imports it where it is installed
import torch

import eval.chain_of_thought
import eval.code
import eval.report
from align import cli, experiment, plans
from align.runs import driver, worker
from data_pipelines.code_execution import stages as code_stages
from data_pipelines.implicit_rewards import data_responses, filtering, pairing, scoring
from data_pipelines.rollouts import stages as rollout_stages
from data_pipelines.rollouts import transformers_engine
from data_pipelines.thought_trees import stages as thought_stages

IMPORTED = (
    deepspeed, eval.chain_of_thought, eval.code, eval.report, code_stages, thought_stages, rollout_stages, transformers_engine, filtering, pairing, scoring,
    data_responses, experiment,
)  # fmt: skip
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

    def start(folders, stage, shard, lock, environment):
        def run():
            os.environ.update(environment or {})
            arm(order, stage.name)
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
    out = os.open(order["said"], os.O_CREAT | os.O_WRONLY | os.O_TRUNC, 0o644)
    os.dup2(out, 1)
    os.dup2(out, 2)
    arm(order, COMMAND)
    return cli.main(["run", *order["arguments"]])


def main() -> None:
    torch.set_num_threads(1)
    gc.collect()
    gc.freeze()  # pages that forks share
    print("ready", file=ANSWERS, flush=True)
    for line in sys.stdin:
        order = json.loads(line)
        process = Forked(lambda order=order: carry_out(order))
        try:
            status = process.wait(120)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, 9)
            status = "still running after two minutes"
        print(json.dumps({"status": status, "said": Path(order["said"]).read_text(errors="replace")}), file=ANSWERS, flush=True)


if __name__ == "__main__":
    main()
