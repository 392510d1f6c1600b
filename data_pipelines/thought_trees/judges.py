"""Judges: what gives the paths of a search their values. A new one is a class with `judge`, named by `@JUDGES.register`."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from align.errors import AlignError, nearest
from align.registry import Registry
from align.rewards.scorers import SCORERS
from align.trees import ROOT, Message, Node, PreferenceTree
from data_pipelines.rollouts.prompts import asked_as
from data_pipelines.rollouts.protocol import Request, Rollout, Sampling, seed_of
from data_pipelines.thought_trees.asks import Ask, Call, Sample
from data_pipelines.thought_trees.tasks import Question, ThoughtTask


@dataclass(frozen=True)
class Candidate:
    """A path to be judged.

    Attributes:
        node, parent: of its last thought.
        thoughts: the texts from the question on.
        token_ids: all of them.
        final: it states the answer.
    """

    node: int
    parent: int
    thoughts: tuple[str, ...]
    token_ids: tuple[int, ...]
    final: bool


@dataclass(frozen=True)
class Level:
    """The new thoughts of one step of one question, with the prompt they follow."""

    question: Question
    prompt: str | list[Message]
    prompt_token_ids: tuple[int, ...]
    step: int
    candidates: tuple[Candidate, ...]


@dataclass(frozen=True)
class Judgement:
    """A path's value (None: nothing readable was said), how it came about, and what it cost."""

    value: float | None
    details: Mapping[str, Any] = field(default_factory=dict)
    unreadable: int = 0
    tokens: int = 0
    calls: int = 0


class Judge(Protocol):
    """Gives paths values."""

    def judge(self, level: Level) -> Generator[Ask, Any, list[Judgement]]:
        """One judgement a candidate; yields what it needs from engine or scorers, and is sent the results."""
        ...


@dataclass(frozen=True)
class JudgeSettings:
    """What a judge may need to know.

    Attributes:
        task: with the judge's prompts.
        votes: m, judgements of each path.
        temperature: of the judgements.
        seed: of the judgements.
        chat: put prompts into the chat template, as a user's message.
        system: the system message in front of it, None where there is none.
        stop_token_ids: tokens that end a judgement beside the model's own end tokens.
        policy, reference: the models, for judges that score.
        dtype: precision of their weights.
        options: the judge's own.
        thought_tokens: longest thought.
    """

    task: ThoughtTask
    votes: int = 5
    temperature: float = 0.4
    seed: int = 0
    chat: bool = False
    system: str | None = None
    stop_token_ids: tuple[int, ...] = ()
    policy: str = ""
    reference: str = ""
    dtype: str = "auto"
    options: Mapping[str, Any] = field(default_factory=dict)
    thought_tokens: int = 96


_STEP_JUDGES = "data_pipelines.thought_trees.step_judges"
JUDGES: Registry[Callable[[JudgeSettings], Judge]] = Registry(
    "judges", "thoughts.judge", {"steps": f"{_STEP_JUDGES}:StepChecker", "answer": f"{_STEP_JUDGES}:CompletedSteps"}
)


def find_judge(name: str) -> Callable[[JudgeSettings], Judge]:
    """What opens a judge: of `JUDGES`, a scorer of `align.rewards` ("implicit", "reward_model", ...), or "module:class".

    Raises:
        AlignError: there is none.
    """
    if name in JUDGES or ":" in name:
        return JUDGES.find(name)
    if name == "llm":
        raise AlignError(f"{JUDGES.key}: the scorer 'llm' grades finished responses, not the thoughts of a search: take the judge 'steps'")
    if name in SCORERS:
        return functools.partial(ScorerJudge, name)
    raise AlignError(f"{JUDGES.key} is '{name}': {nearest(name, [*JUDGES, *SCORERS])}")


def samples(name: str) -> bool:
    """Whether a judge samples judgements or completions, `votes` of each path; one of the user's own may."""
    return ":" in name or (name in JUDGES and name != "checker")


@JUDGES.register("self_evaluation")
class SelfEvaluation:
    """The model judges each path by itself, m times, with the task's few-shot prompt (CPO, section 3.1; ToT's "value").

    The value is the sum of what the readable verdicts count, and `unreadable`, if the task says so, for each of the others. Where no
    verdict of a whole level can be read, no path has a value.
    """

    def __init__(self, settings: JudgeSettings) -> None:
        """Args: settings.

        Raises:
            AlignError: the task has no prompt for a judge.
        """
        prompts = settings.task.judge
        if prompts is None:
            raise AlignError("thoughts.judge: 'self_evaluation' needs `judge` in the task's file, which says how a path is judged")
        self._settings, self._prompts = settings, prompts
        ends = settings.stop_token_ids
        self._sampling = Sampling(prompts.max_new_tokens, settings.temperature, stop=tuple(prompts.end), stop_token_ids=ends)
        self._line = re.compile(prompts.verdict_line, re.IGNORECASE)

    def judge(self, level: Level) -> Generator[Ask, Any, list[Judgement]]:
        """One request of m samples a path."""
        how = self._settings
        requests = tuple(
            Request(
                f"{level.question.id}/judge/{c.node}",
                asked_as(how.task.judge_prompt(level.question, c.thoughts, c.final), how.chat, how.system),
                how.votes, seed_of(how.seed, "judge", level.question.id, c.node),
            )
            for c in level.candidates
        )  # fmt: skip
        rollouts: list[Rollout] = yield Sample(requests, self._sampling)
        verdicts = [[verdict_of(c.text, self._line, self._prompts.verdicts) for c in rollout.completions] for rollout in rollouts]
        readable = any(verdict is not None for votes in verdicts for verdict in votes)
        otherwise = self._prompts.unreadable if readable else None
        return [self._judgement(rollout, votes, otherwise) for rollout, votes in zip(rollouts, verdicts, strict=True)]

    def _judgement(self, rollout: Rollout, verdicts: list[str | None], otherwise: float | None) -> Judgement:
        counted = [otherwise if verdict is None else self._prompts.verdicts[verdict] for verdict in verdicts]
        values = [value for value in counted if value is not None]
        value = round(sum(values), 3) if values else None  # rounded as in CPO's code, so that equal votes are equal values
        details = {"verdicts": verdicts, "texts": [c.text for c in rollout.completions]}
        return Judgement(value, details, verdicts.count(None), sum(len(c.token_ids) for c in rollout.completions), 1)


def verdict_of(text: str, line: re.Pattern[str], verdicts: Mapping[str, float]) -> str | None:
    """The verdict that a judgement ends with: of its last line that is not blank, which must be a verdict line as a whole.

    >>> verdict_of("It follows.\\nVerdict: Likely.", re.compile(r"Verdict: *(\\w+)\\.?"), {"likely": 1.0})
    'likely'
    >>> verdict_of("Verdict: likely? I doubt it.", re.compile(r"Verdict: *(\\w+)\\.?"), {"likely": 1.0}) is None
    True
    """
    lines = [one.strip() for one in text.splitlines() if one.strip()]
    match = line.fullmatch(lines[-1]) if lines else None
    verdict = match.group(1).lower() if match else None
    return verdict if verdict in verdicts else None


@JUDGES.register("vote")
class Vote:
    """The model is shown several paths and names the best, m times (ToT's "vote"). A path's value is the number of its votes.

    Options: `among`, "siblings" (the thoughts that follow one path) or "level" (all candidates of a step, as the tree-of-thought code
    does), `instruction`, `ask`, `max_new_tokens`, `end`.
    """

    INSTRUCTION = "Several next steps towards the answer of a question are given. Decide which one is the most promising.\n\n"
    ASK = 'Say why in one line, then end with the line "Verdict: N", N being the number of the best step.\n'

    def __init__(self, settings: JudgeSettings) -> None:
        """Args: settings.

        Raises:
            AlignError: `among` is neither "siblings" nor "level".
        """
        options = settings.options
        self._settings = settings
        self._among = str(options.get("among", "siblings"))
        if self._among not in ("siblings", "level"):
            raise AlignError(f"thoughts.judge.options.among is '{self._among}': {nearest(self._among, ('siblings', 'level'))}")
        self._instruction, self._ask = options.get("instruction", self.INSTRUCTION), options.get("ask", self.ASK)
        end = tuple(options.get("end", ("\n\n",)))
        longest, ends = int(options.get("max_new_tokens", 96)), settings.stop_token_ids
        self._sampling = Sampling(longest, settings.temperature, stop=end, stop_token_ids=ends)

    def judge(self, level: Level) -> Generator[Ask, Any, list[Judgement]]:
        """One request of m samples for each group that is voted on; who stands alone gets all votes unasked."""
        families: dict[int, list[Candidate]] = {}
        for candidate in level.candidates:
            families.setdefault(candidate.parent if self._among == "siblings" else ROOT, []).append(candidate)
        several = {parent: family for parent, family in families.items() if len(family) > 1}
        requests = tuple(self._request(level, parent, family) for parent, family in several.items())
        rollouts: list[Rollout] = (yield Sample(requests, self._sampling)) if requests else []
        found: dict[int, Judgement] = {
            family[0].node: Judgement(float(self._settings.votes)) for parent, family in families.items() if parent not in several
        }
        for family, rollout in zip(several.values(), rollouts, strict=True):
            found |= _counted(family, rollout)
        return [found[candidate.node] for candidate in level.candidates]

    def _request(self, level: Level, parent: int, family: Sequence[Candidate]) -> Request:
        how = self._settings
        shared = 0 if self._among == "level" else len(family[0].thoughts) - 1  # thoughts that all of them begin with
        before = "".join(family[0].thoughts[:shared])
        shown = [" ".join("".join(c.thoughts[shared:]).split()) if self._among == "level" else c.thoughts[-1].strip() for c in family]
        listed = "".join(f"{number}. {text}\n" for number, text in enumerate(shown, 1))
        text = f"{self._instruction}{how.task.question.format(**level.question.fields)}{before}{listed}{self._ask}"
        seed = seed_of(how.seed, "vote", level.question.id, level.step, parent)
        return Request(f"{level.question.id}/vote/{level.step}/{parent}", asked_as(text, how.chat, how.system), how.votes, seed)


def _counted(family: Sequence[Candidate], rollout: Rollout) -> dict[int, Judgement]:
    """Votes by node; where no vote can be read, nobody has a value. The first of the group carries its cost."""
    numbers = {str(number): 1.0 for number in range(1, len(family) + 1)}
    votes = [verdict_of(c.text, re.compile(r"Verdict: *(\d+)\.?", re.IGNORECASE), numbers) for c in rollout.completions]
    unreadable = sum(vote is None for vote in votes)
    tokens = sum(len(c.token_ids) for c in rollout.completions)
    found = {}
    for number, candidate in enumerate(family, 1):
        value = None if unreadable == len(votes) else float(votes.count(str(number)))
        first = number == 1
        found[candidate.node] = Judgement(value, {"votes": votes}, unreadable * first, tokens * first, int(first))
    return found


@JUDGES.register("checker")
class Checker:
    """Knows the gold answer: 1 for a path whose last step is right as far as the task's grader can see, and whose answer, at
    the end, is the gold one; 0 else. For measuring what search can reach, and for tasks whose steps can be checked."""

    def __init__(self, settings: JudgeSettings) -> None:
        """Args: settings, for their task."""
        self._task = settings.task

    def judge(self, level: Level) -> Generator[Ask, Any, list[Judgement]]:
        """Asks nobody."""
        if not level.question.gold:
            raise AlignError("the judge 'checker' needs a gold answer, and the question has none")
        yield from ()
        return [Judgement(float(self._is_right(level.question, candidate))) for candidate in level.candidates]

    def _is_right(self, question: Question, candidate: Candidate) -> bool:
        if self._task.check_step(candidate.thoughts, question) is False:
            return False
        return not candidate.final or self._task.is_right("".join(candidate.thoughts), question)


class ScorerJudge:
    """A scorer of `align.rewards` as judge: a path's value is its reward as a response so far. "implicit" is the implicit
    reward of the path; "reward_model" reads its text; "function" is your own."""

    def __init__(self, name: str, settings: JudgeSettings) -> None:
        """Args: name, of the scorer; settings, with both models for "implicit".

        Raises:
            AlignError: the scorer cannot be set up.
        """
        from align.rewards.scorers import ScorerSettings, open_scorer

        options = ScorerSettings(settings.policy, settings.reference, settings.dtype, options=settings.options)
        self._scorer = open_scorer(name, options)

    def judge(self, level: Level) -> Generator[Ask, Any, list[Judgement]]:
        """One tree a level, its paths as leaves; all questions' trees are scored in one call."""
        leaves = tuple(Node("".join(c.thoughts), token_ids=c.token_ids, complete=False) for c in level.candidates)
        tree = PreferenceTree(level.prompt, leaves, prompt_token_ids=level.prompt_token_ids, id=level.question.id)
        scores = yield Call(self._scorer.score, tree)
        return [
            Judgement(score.reward, {name: round(number, 6) for name, number in score.details.items()}, int(score.reward is None))
            for score in scores
        ]
