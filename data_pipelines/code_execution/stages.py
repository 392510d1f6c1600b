"""The stages of a code run: problems without the benchmarks', verdicts on sampled programs, and the preferences that they give."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from align.errors import AlignError
from align.registry import imported
from align.runs import Finished, Task, Work, read_journal, write_json
from align.trees import PreferenceTree, only_trained, write_jsonl, write_pairs, write_trees
from data_pipelines.code_execution.decontamination import overlaps
from data_pipelines.code_execution.edges import statistics, with_edges
from data_pipelines.code_execution.extraction import program_of
from data_pipelines.code_execution.formats import FORMATS
from data_pipelines.code_execution.problems import Problem, TestMaker, packages_of, read_problems
from data_pipelines.code_execution.sandbox import Assertions, ExecutionResult, Limits, Sandbox, Tests
from data_pipelines.code_execution.settings import ChooseSettings, ExecuteSettings, PairProgramsSettings, SandboxSettings
from data_pipelines.code_execution.syntax import normalised
from data_pipelines.rollouts.prompts import prompt_id
from data_pipelines.rollouts.samples import read_samples

BATCH = 32  # problems between two writes: what a crash costs at most


def choose_problems(task: Task) -> None:
    """Read the problems to sample for, leave out what the benchmarks have, and see that the rest can be judged.

    Inputs: `problems`; any number of `benchmark…`. Settings: `ChooseSettings`. Outputs: `problems.jsonl`; `prompts.jsonl`, for
    sampling; `decontamination.json`; `set-aside.jsonl`, problems that cannot be used and why.
    """
    settings = task.read(ChooseSettings)
    maker = test_maker(settings.tests_from)
    keep_aside = str(task.folder / "rejected.jsonl")
    problems = read_problems(task.inputs["problems"], make_tests=maker, keep_aside=keep_aside, **vars(settings.source))
    names = sorted(name for name in task.inputs if name.startswith("benchmark"))
    benchmarks = [problem for name in names for problem in read_problems(task.inputs[name])]
    left_out = overlaps(problems, benchmarks)
    report = {"compared_with": [task.inputs[name] for name in names], "benchmark_problems": len(benchmarks), "problems": len(problems)}
    write_json(task.folder / "decontamination.json", {**report, "left_out": [asdict(overlap) for overlap in left_out.values()]})
    kept = [problem for problem in problems if problem.id not in left_out]
    packages_of([*kept, *benchmarks])  # one that is missing is said now, not after the sampling
    reasons = _unfit(kept, settings)
    write_jsonl(({"where": id, "reason": reason} for id, reason in reasons.items()), task.folder / "set-aside.jsonl")
    kept = [problem for problem in kept if problem.id not in reasons]
    if not kept:
        first = next(iter(reasons.values()), "the benchmarks have them all")
        raise AlignError(f"{task.inputs['problems']}: no problem can be used; the first reason: {first}")
    write_problems(kept, task.folder, settings.chat)


def write_problems(problems: Sequence[Problem], folder: Path, chat: bool) -> None:
    """Leave problems as their records, `problems.jsonl`, and what the model is asked, `prompts.jsonl`."""
    records = ({"id": one.id, "format": one.format, "record": one.record, "tests": _made(one)} for one in problems)
    write_jsonl(records, folder / "problems.jsonl")
    write_jsonl(({"prompt": asked(problem, chat)} for problem in problems), folder / "prompts.jsonl")


def asked(problem: Problem, chat: bool) -> str:
    """What the model is asked: told the problem, or handed the beginning of a program where there is one."""
    return problem.ask if chat or not problem.prefix else problem.prefix


def test_maker(name: str | None) -> TestMaker | None:
    """A user's function that makes tests: record → `Tests`, or Python text with assertions."""
    if name is None:
        return None
    make = imported(name, "code.tests_from")

    def tests(record: Mapping[str, Any]) -> Tests:
        found = make(record)
        return Assertions(found, record.get("entry_point")) if isinstance(found, str) else found

    return tests


def _made(problem: Problem) -> dict[str, Any] | None:
    """Tests that a hook made, which the record does not hold."""
    assert problem.record is not None
    if FORMATS[problem.format](problem.record).tests is not None or not isinstance(problem.tests, Assertions):
        return None
    return dict(vars(problem.tests))


def read_chosen(path: Path) -> list[Problem]:
    """The problems that `write_problems` left."""
    found = []
    with open(path, encoding="utf-8") as lines:
        for line in lines:
            entry = json.loads(line)
            problem = replace(FORMATS[entry["format"]](entry["record"]), record=entry["record"], format=entry["format"])
            found.append(problem if entry["tests"] is None else replace(problem, tests=Assertions(**entry["tests"])))
    return found


def _unfit(problems: Sequence[Problem], settings: ChooseSettings) -> dict[str, str]:
    """Why problems cannot be used: asked twice, or their own solution does not pass."""
    reasons: dict[str, str] = {}
    seen: dict[str, str] = {}
    for problem in problems:
        first = seen.setdefault(prompt_id(asked(problem, settings.chat)), problem.id)
        if first != problem.id:
            reasons[problem.id] = f"asked in the same words as {first}"
    known = [problem for problem in problems if problem.solution is not None and problem.id not in reasons]
    if settings.check_solutions and known:
        with open_sandbox(settings.sandbox, known) as sandbox:
            jobs = ((str(problem.solution), _tests(problem)) for problem in known)
            for problem, result in zip(known, sandbox.run_batch(jobs, settings.sandbox.limits), strict=True):
                if not result.passed:
                    reasons[problem.id] = f"its own solution does not pass its tests: {result.verdict}"
    return reasons


def open_sandbox(settings: SandboxSettings, problems: Sequence[Problem] = ()) -> Sandbox:
    """The sandbox of a recipe, with the packages that it names and those that the tests of problems import.

    Raises:
        AlignError: a package is not installed, or the machine does not have the isolation that is required.
    """
    packages = dict.fromkeys([*settings.packages, *packages_of(problems)])
    return Sandbox(settings.isolation, packages=tuple(packages), confirm=settings.confirm, tolerance=settings.tolerance)


def _tests(problem: Problem) -> Tests:
    assert problem.tests is not None
    return problem.tests


def execute(task: Task) -> None:
    """Run every sampled program against its problem's tests, equal programs once.

    Inputs: `samples`, `problems`. Settings: `ExecuteSettings`. Output: `verdicts/`, a journal by prompt id: `programs`, for each sample
    its `program`, `verdict`, `share` of tests passed, `seconds`, and `same_as`, the first sample with the same program; `isolation`.
    """
    settings = task.read(ExecuteSettings)
    problems = {prompt_id(asked(one, settings.chat)): one for one in read_chosen(task.path("problems"))}
    trees = [tree for tree in read_samples(task.path("samples")) if tree.id in problems]
    work = Work(task, "verdicts", trees, BATCH, "problems")
    if work.is_finished:
        return
    with open_sandbox(settings.sandbox, list(problems.values())) as sandbox:

        def judged(batch: list[PreferenceTree]) -> Finished:
            return Finished(_judged(batch, [problems[str(tree.id)] for tree in batch], sandbox, settings.sandbox.limits, settings.chat))

        work.map(judged)


def _judged(
    trees: Sequence[PreferenceTree], problems: Sequence[Problem], sandbox: Sandbox, limits: Limits, chat: bool
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Verdicts on the programs of several problems, run side by side."""
    programs = [[program_of(str(n.text), problem, chat) for n in tree.nodes] for tree, problem in zip(trees, problems, strict=True)]
    firsts = [first_of_each(several) for several in programs]
    jobs: Iterable[tuple[str, Tests]] = (
        (several[index], _tests(problem))
        for several, first, problem in zip(programs, firsts, problems, strict=True)
        for index in sorted(set(first))
    )
    results = iter(sandbox.run_batch(jobs, limits))
    for tree, several, first in zip(trees, programs, firsts, strict=True):
        judged = {index: next(results) for index in sorted(set(first))}
        records = [_record(program, judged[f], None if f == i else f) for i, (program, f) in enumerate(zip(several, first, strict=True))]
        yield str(tree.id), {"programs": records, "isolation": sandbox.isolation.level}


def first_of_each(programs: Sequence[str]) -> list[int]:
    """For each program the index of the first that is the same, formatting and comments aside.

    >>> first_of_each(["x=1", "x = 1  # one", "x = 2"])
    [0, 0, 2]
    """
    seen: dict[str, int] = {}
    return [seen.setdefault(normalised(program), index) for index, program in enumerate(programs)]


def _record(program: str, result: ExecutionResult, same_as: int | None) -> dict[str, Any]:
    share, seconds = round(result.share, 4), round(result.seconds, 4)
    return {"program": program, "verdict": str(result.verdict), "share": share, "seconds": seconds, "same_as": same_as}


def make_edges(task: Task) -> None:
    """Make the preferences.

    Inputs: `samples`, `verdicts`, `problems`. Settings: `PairProgramsSettings`. Outputs: `pairs.jsonl`, trees to be trained on;
    `flat.jsonl`, the same as prompt/chosen/rejected for any trainer; `programs.jsonl`, every program with its verdict, for `align show`;
    `statistics.json`.

    Raises:
        AlignError: no problem gives a pair.
    """
    settings = task.read(PairProgramsSettings)
    names = {prompt_id(asked(one, settings.chat)): one.id for one in read_chosen(task.path("problems"))}
    verdicts = read_journal(task.path("verdicts"))
    judged = [with_verdicts(tree, verdicts[tree.id], names[tree.id]) for tree in read_samples(task.path("samples")) if tree.id in verdicts]
    trees = [with_edges(tree, settings) for tree in judged]
    write_trees(trees, task.folder / "programs.jsonl")
    found = statistics(trees, len(names) - len(trees))
    write_json(task.folder / "statistics.json", found)
    trained = [only_trained(tree) for tree in trees if tree.edges]
    if not trained:
        raise AlignError(
            f"no preference can be made: of {len(trees)} problems all programs pass at {found['all_pass']} and none at {found['all_fail']}"
        )
    write_trees(trained, task.folder / "pairs.jsonl")
    write_pairs(trained, task.folder / "flat.jsonl")


def with_verdicts(tree: PreferenceTree, record: Mapping[str, Any], problem: str) -> PreferenceTree:
    """A problem's samples with program, verdict and share of tests passed on each."""
    nodes = tuple(
        replace(
            node,
            score=found["share"],
            metadata={key: value for key, value in node.metadata.items() if key != "logps"}
            | {key: found[key] for key in ("program", "verdict", "seconds", "same_as")},
        )
        for node, found in zip(tree.nodes, record["programs"], strict=True)
    )
    return replace(tree, nodes=nodes, metadata={**tree.metadata, "problem": problem, "isolation": record["isolation"]})
