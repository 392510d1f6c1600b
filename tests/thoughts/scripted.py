"""An engine that says what a test wants it to say, for the rules of the search; what real engines do is tested with real ones."""

import yaml
from conftest import byte_level_tokenizer

from align.sampling import Sample
from data_pipelines.rollouts.protocol import Rollout, completion_of
from data_pipelines.thought_trees.search import Asked, SearchSettings, search
from data_pipelines.thought_trees.tasks import Question, load_task

QUESTION = "Question: {question}\n"
TASK = {
    "description": "two steps", "data": {"fields": {"question": "question"}, "gold": "answer"}, "question": QUESTION, "steps": 2,
    "markers": ["\n"], "next_step": ["Step {next}:"], "end": ["\n\n"], "max_new_tokens": 30, "answer": "answer is (.+)$", "grader": {"name": "text"},
    "judge": {"step": {"ask": "Evaluation: "}},
}  # fmt: skip


def write_task(folder, **changes):
    """A task file; a change to None leaves the key out."""
    content = {key: value for key, value in {**TASK, **changes}.items() if value is not None}
    (folder / "task.yaml").write_text(yaml.safe_dump(content))
    return str(folder / "task.yaml")


class Scripted:
    """`say(context)` gives the texts for a context, the prompt's text and all that was sampled since."""

    context = None
    batch = 64

    def __init__(self, say):
        self.say, self.tokenizer, self.calls = say, byte_level_tokenizer(), []

    def prompt_ids(self, prompt):
        return prompt if isinstance(prompt, tuple) else tuple(self.tokenizer(prompt)["input_ids"])

    def generate(self, requests, sampling):
        self.calls.append([request.id for request in requests])
        for request in requests[::-1]:  # results come in any order
            ids = self.prompt_ids(request.prompt)
            texts = self.say(self.tokenizer.decode(ids))
            texts = [texts[i % len(texts)] for i in range(request.n)]
            yield Rollout(request.id, ids, tuple(self._completion(text, sampling) for text in texts))

    def _completion(self, text, sampling):
        """Token by token until a stop text, the end, or the length."""
        ids = self.tokenizer(text)["input_ids"]
        for length in range(1, len(ids) + 1):
            if any(stop in self.tokenizer.decode(ids[:length]) for stop in sampling.stop):
                return completion_of(Sample(tuple(ids[:length]), (0.0,) * length, "stop"), self.tokenizer, sampling)
        ended = len(ids) < sampling.max_new_tokens
        return completion_of(Sample(tuple(ids), (0.0,) * len(ids), "stop" if ended else "length"), self.tokenizer, sampling)


def searching(engine, judge, task, question="2 + 2?", gold=("4",), sampling=None, **settings):
    """The search of one question, ready to be run."""
    from data_pipelines.rollouts.protocol import Sampling

    how = load_task(task) if isinstance(task, str) else task
    asked = Question(question, {"question": question}, gold)
    prompt = how.prompt(asked)
    width = SearchSettings(**{"thoughts": 4, "keep": 2, "keep_at_most": 4, "min_characters": 2, **settings})
    return search(
        Asked(asked, prompt, engine.prompt_ids(prompt)), how, judge, width, sampling or Sampling(30, temperature=0.7), engine.tokenizer
    )
