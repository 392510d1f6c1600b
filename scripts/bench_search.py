"""Speed of tree-of-thought search: all questions together, and what that is without, on vLLM or the embedded engine.

    python scripts/bench_search.py                 # vLLM; on a CPU about five minutes; a random 4-layer Llama, 8 questions
    python scripts/bench_search.py --model Qwen/Qwen2.5-7B --task gsm8k --questions 64 --skip calls   # on a GPU
    python scripts/bench_search.py --engine transformers --model FOLDER --questions 2 --steps 2 --votes 1   # prefixes against plain

Contenders take turns in one process, each with an empty prefix cache; medians are reported. On vLLM:
together   every engine call carries every open path of every question
questions  one question after the other, the siblings of a step in one call
calls      every thought and every judgement a call of its own, as the released code of CPO works
On the embedded engine, all questions together:
prefixes   prompts are read from prefix caches, rows that end make room for others
plain      transformers' `generate`, which reads each call's prompts anew

Same seeds, same thoughts: the share that is the same (up to ties in the last digit) is printed too.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Generator, Iterator, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from align.sampling import Sampling
from align.trees import PreferenceTree
from data_pipelines.rollouts.protocol import Completion, Engine, Request, Rollout, session_of
from data_pipelines.thought_trees.asks import Ask, together
from data_pipelines.thought_trees.judges import Judgement, JudgeSettings, Level, SelfEvaluation
from data_pipelines.thought_trees.search import Asked, SearchSettings, search
from data_pipelines.thought_trees.tasks import Question, ThoughtTask, load_task

WIDTH = SearchSettings(thoughts=5, keep=3, keep_at_most=3, min_characters=1)
PEOPLE = ("Anna", "Ben", "Carla", "Dan", "Eva", "Finn", "Gita", "Hugo")


class Generous(SelfEvaluation):
    """Self-evaluation that reads a verdict out of anything, so that a random model can be measured: how long it spoke."""

    def _judgement(self, rollout: Rollout, verdicts: list[str | None], otherwise: float | None) -> Judgement:
        tokens = [len(completion.token_ids) for completion in rollout.completions]
        return Judgement(float(sum(tokens) % 11), tokens=sum(tokens), calls=1)


class Free:
    """A judge that asks nobody, so that the thoughts alone are measured: a path is worth its tokens, modulo 11."""

    def judge(self, level: Level) -> Generator[Ask, Any, list[Judgement]]:
        """Counts tokens."""
        yield from ()
        return [Judgement(float(len(candidate.token_ids) % 11)) for candidate in level.candidates]


class Babbling(ThoughtTask):
    """A task for a random model, whose words have no lines: a thought ends at a letter, and its last letters are the answer."""

    def canonical(self, response: str, question: Question) -> str | None:
        """The last three letters."""
        return response[-3:]

    def is_right(self, response: str, question: Question) -> bool:
        """Nobody knows."""
        return False


def babbling(task: ThoughtTask, random: bool) -> Babbling:
    """The task's prompts with answers that any model states; for a random model, with steps that it finds, too."""
    assert task.judge is not None
    fields = {name: getattr(task, name) for name in ThoughtTask.model_fields}
    if not random:
        return Babbling.model_construct(**fields)
    judge = task.judge.model_copy(update={"max_new_tokens": 16})
    return Babbling.model_construct(**{**fields, "markers": ["e"], "next_step": [], "end": [], "max_new_tokens": 64, "judge": judge})


class OneCallAtATime:
    """An engine that is asked for one sample at a time."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self.context, self.batch, self.tokenizer, self.prompt_ids = engine.context, engine.batch, engine.tokenizer, engine.prompt_ids

    def generate(self, requests: Sequence[Request], sampling: Sampling) -> Iterator[Rollout]:
        """One call a sample."""
        for request in requests:
            completions: list[Completion] = []
            for k in range(request.n):
                single = Request(request.id, request.prompt, 1, request.seed + k)
                completions += next(iter(self._engine.generate([single], sampling))).completions
            yield Rollout(request.id, tuple(self.prompt_ids(request.prompt)), tuple(completions))

    def close(self) -> None:
        """Nothing of its own."""


class CountingTokens:
    """An engine whose sampled tokens are counted."""

    def __init__(self, engine: Engine) -> None:
        self._engine, self.tokens = engine, 0
        self.context, self.batch, self.tokenizer, self.prompt_ids = engine.context, engine.batch, engine.tokenizer, engine.prompt_ids

    def generate(self, requests: Sequence[Request], sampling: Sampling) -> Iterator[Rollout]:
        """As the engine."""
        for rollout in self._engine.generate(requests, sampling):
            self.tokens += sum(len(completion.token_ids) for completion in rollout.completions)
            yield rollout

    def session(self) -> AbstractContextManager[None]:
        """As the engine's."""
        return session_of(self._engine)


def random_model() -> Path:
    """A 4-layer, 256-wide Llama with a byte-level vocabulary of 512, saved in a temporary folder."""
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    core = Tokenizer(models.BPE())
    core.pre_tokenizer, core.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    shown = load_task("gsm8k").prompt(Question("", {"question": "?"}))
    core.train_from_iterator([shown], trainers.BpeTrainer(vocab_size=512, special_tokens=["<pad>", "<eos>"], initial_alphabet=alphabet))
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=core, eos_token="<eos>", pad_token="<pad>")
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=512, hidden_size=256, intermediate_size=688, num_hidden_layers=4, num_attention_heads=8, num_key_value_heads=8,
        max_position_embeddings=4096, pad_token_id=0, eos_token_id=1, bos_token_id=None,
    )  # fmt: skip
    folder = Path(tempfile.mkdtemp())
    LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def run(engine: Engine, task: ThoughtTask, questions: Sequence[Question], size: int, judge: Any) -> dict[str, PreferenceTree]:
    """All searches, `size` questions together."""
    sampling = Sampling(task.max_new_tokens, temperature=0.7)
    found: dict[str, Any] = {}
    for start in range(0, len(questions), size):
        asked = [Asked(q, task.prompt(q), engine.prompt_ids(task.prompt(q))) for q in questions[start : start + size]]
        found |= dict(together({a.question.id: search(a, task, judge, WIDTH, sampling, engine.tokenizer) for a in asked}, engine))
    return {name: tree for name, tree in found.items() if isinstance(tree, PreferenceTree)}


def same_share(one: dict[str, PreferenceTree], other: dict[str, PreferenceTree]) -> float:
    """Share of thoughts that stand on the same path in both."""

    def paths(trees: dict[str, PreferenceTree]) -> Counter[Any]:
        return Counter(
            (name, tuple(token for i in tree.path(node) for token in tree.nodes[i].token_ids or ()))
            for name, tree in trees.items()
            for node in range(len(tree.nodes))
        )

    mine, theirs = paths(one), paths(other)
    return (mine & theirs).total() / max(mine.total(), theirs.total())


def open_contenders(name: str, model: str | Path, questions: int, dtype: str) -> dict[str, tuple[Any, int]]:
    """By name, an engine and how many questions it searches together; the first is what the others are compared with."""
    if name == "transformers":
        from data_pipelines.rollouts.transformers_engine import TransformersEngine

        return {reading: (TransformersEngine(model, dtype=dtype, reading=reading), questions) for reading in ("prefixes", "plain")}
    from data_pipelines.rollouts.vllm_engine import VllmEngine

    engine = VllmEngine(model, dtype=dtype, options={"max_model_len": 4096})
    return {"together": (engine, questions), "questions": (engine, 1), "calls": (OneCallAtATime(engine), 1)}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--engine", default="vllm", choices=["vllm", "transformers"])
    parser.add_argument("--model", help="a model that the engine loads (default: a random small one)")
    parser.add_argument("--task", default="gsm8k", help="a task whose questions are made up here: its prompt counts, not its answers")
    parser.add_argument("--questions", type=int, default=8)
    parser.add_argument("--steps", type=int, help="of a search (default: the task's)")
    parser.add_argument("--votes", type=int, default=3)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--skip", nargs="*", default=[], choices=["thoughts", "questions", "calls"])
    options = parser.parse_args()
    task = load_task(options.task)
    if options.steps is not None:
        task = task.model_copy(update={"steps": options.steps})
    if options.model is None or options.engine == "transformers":
        task = babbling(task, options.model is None)
    questions = [
        Question(
            f"q{i}", dict.fromkeys(task.data.fields, f"{PEOPLE[i % 8]} has {i + 3} apples and buys {2 * i + 1} more. How many are there?")
        )
        for i in range(options.questions)
    ]
    dtype = "auto" if options.model else "float32"
    contenders = open_contenders(options.engine, options.model or random_model(), len(questions), dtype)
    contenders = {name: contender for name, contender in contenders.items() if name not in options.skip}
    judges = {"thoughts alone": Free(), "with self-evaluation": Generous(JudgeSettings(task, votes=options.votes, temperature=0.7))}
    if "thoughts" in options.skip:
        del judges["thoughts alone"]
    for label, judge in judges.items():
        measure(label, judge, contenders, task, questions, options.repeats)
    for engine, _ in contenders.values():
        engine.close()


def measure(label: str, judge: Any, contenders: dict[str, Any], task: ThoughtTask, questions: Sequence[Question], repeats: int) -> None:
    """Let the contenders take turns, and print their medians."""
    times: dict[str, list[float]] = {name: [] for name in contenders}
    trees: dict[str, dict[str, PreferenceTree]] = {}
    counting = {name: CountingTokens(engine) for name, (engine, _) in contenders.items()}
    for engine in counting.values():
        list(engine.generate([Request("warm", "warm", 1)], Sampling(8)))
    for _ in range(repeats):
        for name, (engine, size) in contenders.items():
            if hasattr(engine, "_llm"):
                engine._llm.reset_prefix_cache()
            counting[name].tokens = 0
            began = time.monotonic()
            trees[name] = run(counting[name], task, questions, size, judge)
            times[name].append(time.monotonic() - began)
            print(f"{label}, {name}: {times[name][-1]:.1f} s, {counting[name].tokens} tokens", file=sys.stderr, flush=True)
    first = next(iter(contenders))
    thoughts = sum(len(tree.nodes) for tree in trees[first].values())
    print(f"{label}: {len(trees[first])} of {len(questions)} questions searched, {thoughts} distinct thoughts", flush=True)
    for name, seconds in times.items():
        median = statistics.median(seconds)
        share = statistics.median(times[first]) / median
        same = same_share(trees[first], trees[name])
        spread, speed = f"{min(seconds):.1f} to {max(seconds):.1f}", counting[name].tokens / median
        figures = f"{median:7.1f} s ({spread})   {speed:7.1f} tokens/s   {first} takes {share:.2f} of it   {same:.1%} the same thoughts"
        print(f"  {name:<10} {figures}", flush=True)


if __name__ == "__main__":
    main()
