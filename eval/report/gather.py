"""Everything that a report shows of a run, read from its folder. What is not there is noted, never an error."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import yaml

from align.errors import AlignError
from align.recipes.methods import KNOW_THE_ANSWERS
from align.runs import read_journal
from align.runs.digest import MANIFEST
from align.trees import PreferenceTree, Rejected, read_trees
from eval.verdicts import note_on

Value = TypeVar("Value")
TREES = 40  # of a search, shown
EXAMPLES = 12  # samples and pairs of programs, shown


@dataclass
class Evaluation:
    """Numbers of an evaluation stage; `items`: a grade by question or problem, 1 or 0 where it is right or wrong; `responses`: what
    the model wrote; `notes`: what must be said beside the numbers; `judge_knows`: of a search, whether its judge reads the gold answers."""

    stage: str
    metrics: dict[str, float]
    items: dict[str, float] = field(default_factory=dict)
    responses: dict[str, str] = field(default_factory=dict)
    questions: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    judge_knows: bool = False

    @property
    def suite(self) -> str:
        """What it was measured by, "" where its stage's name does not say it.

        >>> Evaluation("round-2/gsm8k/evaluate", {}).suite, Evaluation("evaluate", {}).suite
        ('gsm8k', '')
        """
        return _place(self.stage)[1]

    @property
    def title(self) -> str:
        """What it measured, for a reader.

        >>> Evaluation("round-2/evaluate", {}).title, Evaluation("start/gsm8k/grade", {}).title
        ('after round 2', 'gsm8k, tree search, before')
        """
        moment = _place(self.stage)[0]
        if not self.is_of_a_model:
            shown = f"tree search{' by a judge that knows the answers' if self.judge_knows else ''}, before"
        else:
            shown = {"": "after", "start": "before"}.get(moment, f"after {moment.replace('-', ' ')}")
        return f"{self.suite}, {shown}" if self.suite else shown

    @property
    def is_of_the_start(self) -> bool:
        """Whether the model was measured before any training."""
        return self.is_of_a_model and _place(self.stage)[0] == "start"

    @property
    def is_of_a_model(self) -> bool:
        """Whether a model was measured, and not a search by it."""
        return not self.stage.endswith("grade")

    @property
    def is_share(self) -> bool:
        """Whether its first number is a share of right answers, to be shown in percent."""
        return all(0.0 <= value <= 1.0 for value in self.items.values())


def _place(stage: str) -> tuple[str, str]:
    """The moment of a run that a stage measures, "start", "round-2" or "" for its end, and the suite."""
    moment, _, suite = stage.rpartition("/")[0].partition("/")
    return (moment, suite) if re.fullmatch(r"start|round-\d+|", moment) else ("", f"{moment}/{suite}".rstrip("/"))


@dataclass
class Training:
    """What a training stage logged, and what its 3D monitor saw."""

    stage: str
    log: list[dict[str, float]]
    three_d: list[dict[str, Any]]

    @property
    def findings(self) -> list[str]:
        """The warnings of the monitor, each property's first."""
        first: dict[str, str] = {}
        for entry in self.three_d:
            for finding in entry.get("findings", []):
                first.setdefault(finding.split(":")[0], f"step {entry['step']}: {finding}")
        return list(first.values())


@dataclass
class Round:
    """What a round of DICE paired: statistics, lengths and scores of all responses and of both ends of the pairs, and, by prompt,
    the first response that the round's policy gave."""

    name: str
    statistics: dict[str, Any]
    scores: list[float]
    chosen_lengths: list[int]
    rejected_lengths: list[int]
    responses: dict[str, str] = field(default_factory=dict)


@dataclass
class RunData:
    """A run, as far as it is there.

    Attributes:
        label: its folder's name.
        path: its folder.
        recipe: as it was run.
        stages: manifest of every finished stage, by name, in the order they ended.
        usage: peak memory of a stage's processes together, bytes.
        missing: what could not be read, in words.
    """

    label: str
    path: Path
    recipe: dict[str, Any]
    stages: dict[str, dict[str, Any]] = field(default_factory=dict)
    usage: dict[str, dict[str, int]] = field(default_factory=dict)
    evaluations: list[Evaluation] = field(default_factory=list)
    trainings: list[Training] = field(default_factory=list)
    rounds: list[Round] = field(default_factory=list)
    searches: list[PreferenceTree] = field(default_factory=list)
    verdicts: dict[str, int] = field(default_factory=dict)
    programs: list[dict[str, str]] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)

    @property
    def method(self) -> str:
        """Which method this is."""
        rounds = self.recipe.get("rounds") or {}
        has_rounds = self.recipe.get("rounds") is not None
        edges = (self.recipe.get("thoughts") or {}).get("edges", {})
        steps = "Step-DPO" if edges.get("form") == "first_errors" else "CPO"
        for section, name in (("thoughts", steps), ("code", "code preferences")):
            if self.recipe.get(section) is not None:
                return f"iterated {name}" if has_rounds else name
        scorers = [choice.get("name") for choice in rounds.get("scorers", [{"name": "implicit"}])]
        return self._of_rounds(scorers, rounds) if has_rounds else "DPO"

    @property
    def judge(self) -> str:
        """Of the paths of a search, "" where there is none."""
        judge = (self.recipe.get("thoughts") or {}).get("judge")
        return str(judge.get("name", "")) if isinstance(judge, dict) else ""

    @staticmethod
    def _of_rounds(scorers: list[Any], rounds: dict[str, Any]) -> str:
        if rounds.get("exploration") == "policy":
            return "SELM"
        if rounds.get("prompts") == "split" and rounds.get("reference") == "start" and scorers != ["implicit"]:
            return "online DPO"
        if rounds.get("questions"):
            return "IRPO"
        return {"implicit": "DICE", "llm": "self-rewarding"}.get(scorers[0], "rounds") if len(scorers) == 1 else "rounds"

    def attempt(self, what: str, read: Callable[[], Value], otherwise: Value) -> Value:
        """Read something; what goes wrong is noted, and `otherwise` stands in its place."""
        try:
            return read()
        except FileNotFoundError as error:
            self.missing.append(f"{what}: {_inside(error.filename, self.path)} is not there")
        except (OSError, AlignError, ValueError, KeyError, TypeError, AttributeError, yaml.YAMLError) as error:
            self.missing.append(f"{what}: {' '.join(str(error).split())[:200]}")
        return otherwise

    def lines(self, what: str, file: Path) -> list[dict[str, Any]]:
        """The records of a JSONL file; lines that are none are noted and left out."""
        found: list[dict[str, Any]] = []
        torn = 0
        content = self.attempt(what, file.read_bytes, b"")
        for line in content.splitlines():
            try:
                found.append(_mapping(json.loads(line)))
            except ValueError:
                torn += 1
        if torn:
            self.missing.append(f"{what}: {torn} of {torn + len(found)} lines of {_inside(file, self.path)} cannot be read")
        return found

    def trees(self, what: str, file: Path) -> list[PreferenceTree]:
        """The trees of a file; what is none is noted and left out."""
        nothing: tuple[list[PreferenceTree], list[Rejected]] = ([], [])
        found, rejected = self.attempt(what, lambda: read_trees(file), nothing)
        if rejected:
            first = f"{rejected[0].where}: {rejected[0].reason}"
            self.missing.append(f"{what}: {len(rejected)} of {len(rejected) + len(found)} trees cannot be read, the first: {first}")
        return found


def gather(path: Path) -> RunData:
    """Read a run's folder.

    Raises:
        AlignError: it is no run's folder.
    """
    source = path / "recipe.yaml"
    if not source.exists():
        raise AlignError(f"{path}: no run was begun here (there is no recipe.yaml)")
    run = RunData(path.name or path.resolve().name, path, {})
    run.recipe = run.attempt("the recipe", lambda: _mapping(yaml.safe_load(source.read_text(encoding="utf-8"))), {})
    found = [(file.parent.relative_to(path).as_posix(), file) for file in path.glob(f"**/{MANIFEST}") if "superseded" not in file.parts]
    manifests = {name: run.attempt(f"stage {name}", lambda file=file: _manifest(file), None) for name, file in found}  # type: ignore[misc]
    done = sorted((manifest["finished"], name) for name, manifest in manifests.items() if manifest)
    run.stages = {name: manifests[name] for _, name in done}  # type: ignore[misc]
    begun = [file.parent.relative_to(path).as_posix() for file in path.glob("**/stage.json") if "superseded" not in file.parts]
    run.missing += [f"stage {name}: begun, and not finished" for name in sorted(set(begun) - set(run.stages))]
    for name in run.stages:
        _read_stage(run, name)
    return run


def _read_stage(run: RunData, name: str) -> None:
    folder, kind = run.path / name, name.rpartition("/")[2]
    nothing: list[dict[str, Any]] = []
    files = [*folder.glob("usage-*.json")]
    usage = run.attempt(f"memory of {name}", lambda: [_mapping(_json(file)) for file in files], nothing)
    run.usage[name] = {key: sum(int(one.get(key, 0)) for one in usage) for key in ("memory", "gpu_memory")}
    if kind in ("evaluate", "grade"):
        empty = Evaluation(name, {})
        found = run.attempt(f"results of {name}", lambda: read_evaluation(name, folder), empty)
        found.judge_knows = kind == "grade" and run.judge in KNOW_THE_ANSWERS
        run.evaluations.append(found)
    elif kind == "train":
        log = run.lines(f"the log of {name}", folder / "log.jsonl")
        watched = (folder / "three_d.jsonl").exists() or run.recipe.get("training", {}).get("monitor_3d", True)
        three_d = run.lines(f"the 3D monitor of {name}", folder / "three_d.jsonl") if watched else []
        run.trainings.append(Training(name, log, three_d))
    elif kind == "pair" and run.recipe.get("thoughts") is None and run.recipe.get("code") is None:
        run.rounds.append(_round(run, name.rpartition("/")[0], folder))
    elif kind == "edges":  # of several rounds the last
        run.searches = run.trees("searches", folder / "searches.jsonl")[:TREES]
    elif kind == "execute":
        run.verdicts = run.attempt("verdicts", lambda: _verdicts(folder), {})
    elif kind == "pair":
        pairs = run.lines("pairs of programs", folder / "flat.jsonl")
        run.programs = list({str(pair.get("prompt")): pair for pair in pairs[::-1]}.values())[::-1][:EXAMPLES]  # the first of each problem


def read_evaluation(name: str, folder: Path) -> Evaluation:
    """The numbers and answers of an evaluation stage's folder; a plain error where they cannot be read."""
    found = Evaluation(name, {key: float(value) for key, value in _mapping(_json(folder / "metrics.json")).items()})
    for id, record in read_journal(folder / "answers").items():
        found.items[id], found.responses[id] = float(record["right"]), record["response"]
        found.questions[id] = " / ".join(record["question"].values())
    _read_programs(found, read_journal(folder / "programs"))
    return found


def _read_programs(found: Evaluation, records: Mapping[str, Any]) -> None:
    """Grades and programs of a code evaluation; no grades where it has no score."""
    note = note_on(records.values())
    found.notes += [note] if note else []
    for id, record in records.items():
        greedy = record["greedy"][0]
        if "pass@1" in found.metrics:
            found.items[id] = float(greedy["verdict"] == "pass")
            found.responses[id], found.questions[id] = f"{greedy['program']}\n# {greedy['verdict']}", id


def _round(run: RunData, name: str, folder: Path) -> Round:
    statistics: dict[str, Any] = run.attempt(f"statistics of {name}", lambda: _mapping(_json(folder / "statistics.json")), {})
    scored = run.trees(f"scores of {name}", folder / "scored.jsonl")
    pairs = run.trees(f"pairs of {name}", folder / "pairs.jsonl")
    ends = [(tree.nodes[edge.chosen], tree.nodes[edge.rejected]) for tree in pairs for edge in tree.edges]
    scores = [node.score for tree in scored for node in tree.nodes if node.score is not None]
    chosen, rejected = ([_length(pair[side].token_ids, str(pair[side].text)) for pair in ends] for side in (0, 1))
    sampled = scored if statistics.get("responses") != 0 else []  # a round may take the data set's pairs as they are
    responses = {_text(tree.prompt): str(tree.nodes[0].text) for tree in sampled if tree.nodes}
    return Round(name, statistics, scores, chosen, rejected, responses)


def _text(prompt: Any) -> str:
    """A prompt as a person reads it: text, or the last message."""
    return prompt if isinstance(prompt, str) else str(prompt[-1]["content"])


def _length(ids: tuple[int, ...] | None, text: str) -> int:
    return len(text.split()) if ids is None else len(ids)


def _verdicts(folder: Path) -> dict[str, int]:
    counts: dict[str, int] = {}
    for record in read_journal(folder / "verdicts").values():
        for program in record["programs"]:
            verdict = program["verdict"].split("(")[0]
            counts[verdict] = counts.get(verdict, 0) + 1
    return dict(sorted(counts.items(), key=lambda item: -item[1]))


def _manifest(file: Path) -> dict[str, Any]:
    found = _mapping(_json(file))
    return {**found, "finished": str(found["finished"]), "seconds": float(found["seconds"])}


def _mapping(content: Any) -> dict[str, Any]:
    if not isinstance(content, dict):
        raise ValueError(f"expected named values, found {type(content).__name__}")
    return content


def _json(file: Path) -> Any:
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{file.name} is no JSON ({error})") from error


def _inside(name: Any, folder: Path) -> str:
    path = Path(str(name))
    return path.relative_to(folder).as_posix() if path.is_relative_to(folder) else str(name)
