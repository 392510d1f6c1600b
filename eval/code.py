"""pass@k on HumanEval, MBPP, their + forms and any other problems, programs run in the sandbox."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from align.runs import Finished, Task, Work, read_journal, write_json
from align.trees import write_jsonl
from data_pipelines.code_execution.extraction import program_of
from data_pipelines.code_execution.problems import Problem, read_problems
from data_pipelines.code_execution.sandbox import Limits, Sandbox, Tests
from data_pipelines.code_execution.stages import asked, open_sandbox
from data_pipelines.rollouts.ends import stop_token_ids
from data_pipelines.rollouts.engines import open_engine
from data_pipelines.rollouts.prompts import asked_as, check_system, wants_chat
from data_pipelines.rollouts.protocol import Completion, Engine, Request, Sampling, seed_of
from eval.comparison import write_asked
from eval.settings import ProgramSettings
from eval.verdicts import Record, metrics

BATCH = 256  # problems between two writes


def evaluate(task: Task) -> None:
    """One greedy program a problem, and `samples` more where that is above 1.

    Inputs: `model`, `problems`. Settings: `ProgramSettings`. Outputs: `programs/`, a journal of responses with their programs and verdicts;
    `metrics.json`, see `eval.verdicts`; `responses.jsonl`, what the model wrote, beside the program taken from it; `set-aside.jsonl`,
    records that are no problem; and, for the tools of human-eval and evalplus, `samples.jsonl` (greedy) and `samples-N.jsonl` with
    `task_id`, `completion` and `solution`, `…_results.jsonl` with `passed` and `result` too.

    Raises:
        AlignError: the tests of the problems import a package that is not installed; said before anything is sampled.
    """
    settings = task.read(ProgramSettings)
    problems = read_problems(task.inputs["problems"], keep_aside=str(task.folder / "set-aside.jsonl"), **vars(settings.source))
    work = Work(task, "programs", problems, BATCH, "problems")
    if not work.is_finished:
        with open_sandbox(settings.sandbox, problems) as sandbox, open_engine(settings.engine, task.inputs["model"]) as engine:
            chat = wants_chat(settings.chat, engine.tokenizer)
            check_system(settings.system, engine.tokenizer, chat, "system")
            write_asked(task, chat=chat)

            def judged(batch: list[Problem]) -> Finished:
                return Finished(zip([one.id for one in batch], _programs(batch, engine, sandbox, settings), strict=True))

            work.map(judged)
    records = read_journal(task.folder / "programs")
    _write_samples(problems, records, task.folder, settings.samples)
    write_json(task.folder / "metrics.json", metrics(list(records.values()), settings.pass_at))


def _write_samples(problems: Sequence[Problem], records: Mapping[str, Record], folder: Path, samples: int) -> None:
    """Leave what was written, taken from it and judged as files that people and other tools read."""
    by_id = {problem.id: problem for problem in problems}
    for kind in ("greedy", "sampled"):
        name = "samples" if kind == "greedy" else f"samples-{samples}"
        rows = [row for id, record in records.items() for row in _rows(by_id[id], record[kind])]
        if rows:
            write_jsonl(({key: row[key] for key in ("task_id", "completion", "solution")} for row in rows), folder / f"{name}.jsonl")
            write_jsonl(rows, folder / f"{name}_results.jsonl")
    kinds = ((id, kind, one) for id, record in records.items() for kind in ("greedy", "sampled") for one in record[kind])
    write_jsonl(({"task_id": id, "kind": kind, **one} for id, kind, one in kinds), folder / "responses.jsonl")


def _programs(problems: Sequence[Problem], engine: Engine, sandbox: Sandbox, settings: ProgramSettings) -> list[dict[str, Any]]:
    """Greedy and sampled programs of a batch, judged."""
    chat, n = wants_chat(settings.chat, engine.tokenizer), settings.samples
    limits = settings.sandbox.limits
    greedy = _sampled(problems, engine, settings, 1, 0.0)
    sampled = _sampled(problems, engine, settings, n, settings.temperature) if n > 1 else [[] for _ in problems]
    judged = [judge(problems, completions, sandbox, limits, chat) for completions in (greedy, sampled)]
    return [{"greedy": one, "sampled": several} for one, several in zip(*judged, strict=True)]


def judge(
    problems: Sequence[Problem], completions: Sequence[Sequence[Completion]], sandbox: Sandbox, limits: Limits, chat: bool
) -> list[list[dict[str, Any]]]:
    """Verdicts on the programs in several completions of each problem, run side by side.

    Returns:
        For each completion its `response`, the `program` taken from it, its `verdict` and its `finish_reason`.
    """
    written = [(problem, one) for problem, several in zip(problems, completions, strict=True) for one in several]
    programs = [program_of(one.text, problem, chat) for problem, one in written]
    jobs: list[tuple[str, Tests]] = []
    for (problem, _), program in zip(written, programs, strict=True):
        assert problem.tests is not None, "read_problems gives none without"
        jobs.append((program, problem.tests))
    results = sandbox.run_batch(jobs, limits)
    judged = iter(
        [
            {"response": one.text, "program": program, "verdict": str(result.verdict), "finish_reason": one.finish_reason}
            for (_, one), program, result in zip(written, programs, results, strict=True)
        ]
    )
    return [[next(judged) for _ in several] for several in completions]


def _sampled(
    problems: Sequence[Problem], engine: Engine, settings: ProgramSettings, n: int, temperature: float
) -> list[Sequence[Completion]]:
    chat = wants_chat(settings.chat, engine.tokenizer)
    prompts = [asked(problem, chat) for problem in problems]
    requests = [
        Request(problem.id, asked_as(prompt, chat, settings.system), n, seed_of(settings.seed, "code", problem.id))
        for problem, prompt in zip(problems, prompts, strict=True)
    ]
    ends = stop_token_ids(settings.stop_token_ids, engine.tokenizer, "stop_token_ids")
    sampling = Sampling(settings.max_new_tokens, temperature=temperature, stop=settings.stop, stop_token_ids=ends)
    rollouts = {rollout.id: rollout for rollout in engine.generate(requests, sampling)}
    return [rollouts[problem.id].completions for problem in problems]


def _rows(problem: Problem, judged: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Rows as human-eval's evaluation reads and writes them: what is put behind the prompt, and whether that passes."""
    rows = []
    for one in judged:
        program, passed = one["program"], one["verdict"] == "pass"
        completion = program.removeprefix(problem.prefix) if program.startswith(problem.prefix) else f"\n{program}"
        result = "passed" if passed else f"failed: {one['verdict']}"
        rows.append({"task_id": problem.id, "completion": completion, "solution": program, "passed": passed, "result": result})
    return rows
