"""Questions put to chat models: in the task's chat form, read as chat models answer, without the few-shot form's stop texts; what
a comparison says of settings that differ."""

import json

import pytest
from conftest import TEMPLATE, align, byte_level_tokenizer

from align.errors import AlignError
from align.runs import Task, read_journal
from align.sampling import Sample
from data_pipelines.rollouts.protocol import Rollout, completion_of
from data_pipelines.thought_trees.forms import FORMS, form_of
from data_pipelines.thought_trees.tasks import Question, available_tasks, load_task
from eval import chain_of_thought
from eval.chain_of_thought import answer
from eval.comparison import differences

QUESTIONS = [{"question": f"What is {n} plus 1?", "answer": f"so it is\n#### {n + 1}"} for n in range(6)]
SETTINGS = {
    "task": "gsm8k", "source": {"split": "test", "limit": None}, "form": None, "system": None, "stop_token_ids": [], "max_new_tokens": None,
    "engine": {"engine": "transformers", "dtype": "float32"},
}  # fmt: skip
STEPS = "First we add.\n\nThen we look.\n\n"
SAID = ["The answer is 1.", "**2**", "#### 3", "Question: \\boxed{4}", "The answer is not 5.", "So it is 7. I hope this helps!"]


class Scripted:
    """An engine whose answers are given, ended by the first of the stop texts as a real one's."""

    context, batch = 2048, 8

    def __init__(self):
        self.tokenizer, self.asked, self.sampling = byte_level_tokenizer(), [], None

    def prompt_ids(self, prompt):
        self.asked.append(prompt)
        return tuple(self.tokenizer(str(prompt))["input_ids"])

    def generate(self, requests, sampling):
        self.sampling = sampling
        for request, said in zip(requests, SAID, strict=True):
            ids = (*self.tokenizer(STEPS + said)["input_ids"], self.tokenizer.eos_token_id)
            sample = Sample(ids, (0.0,) * len(ids), "stop")
            yield Rollout(request.id, request.prompt, (completion_of(sample, self.tokenizer, sampling, (2,)),))


def run(folder, monkeypatch, scripted, **settings):
    import contextlib

    folder.mkdir(exist_ok=True)
    (folder / "questions.jsonl").write_text("".join(json.dumps(record) + "\n" for record in QUESTIONS))
    monkeypatch.setattr(chain_of_thought, "open_engine", lambda *_: contextlib.nullcontext(scripted))
    answer(Task("gsm8k/evaluate", folder, {**SETTINGS, **settings}, {"model": "none", "questions": str(folder / "questions.jsonl")}))
    return list(read_journal(folder / "answers").values()), json.loads((folder / "metrics.json").read_text())


def test_a_chat_model_is_asked_and_read_as_chat_models_answer(tmp_path, monkeypatch):
    engine = Scripted()
    records, metrics = run(tmp_path, monkeypatch, engine)
    assert [record["answer"] for record in records] == ["1", "2", "3", "4", None, "7"]
    assert [record["right"] for record in records] == [True, True, True, True, False, False]
    assert [record["response"].startswith(STEPS) for record in records] == [True] * 6, "a blank line ends nothing"
    assert {record["finish_reason"] for record in records} == {"stop"}
    assert {record["stop_text"] for record in records} == {None}
    (message,) = engine.asked[0]
    assert message["role"] == "user"
    assert message["content"].startswith("What is 0 plus 1?\n\n")
    assert "Step 1" not in message["content"], "no worked examples"
    assert (engine.sampling.stop, engine.sampling.max_new_tokens) == ((), 1024)
    assert (metrics["accuracy"], metrics["answered"], metrics["ended"], metrics["cut"]) == (4 / 6, 5 / 6, 1.0, 0.0)
    assert metrics["accuracy low"] < 4 / 6 < metrics["accuracy high"]


def test_in_plain_text_the_worked_examples_and_their_stop_texts_stay(tmp_path, monkeypatch):
    engine = Scripted()
    records, metrics = run(tmp_path, monkeypatch, engine, form="examples")
    assert {record["stop_text"] for record in records} == {"\n\n"}
    assert metrics["answered"] == 0.0
    assert "Step 1" in engine.asked[0]
    assert (engine.sampling.stop, engine.sampling.max_new_tokens) == (("\n\n", "Question:"), 4 * 96)


def test_searches_with_chat_are_measured_on_the_prompt_they_train_on(tmp_path, monkeypatch):
    engine = Scripted()
    records, _ = run(tmp_path, monkeypatch, engine, form="examples_in_chat", system="be kind")
    assert [message["role"] for message in engine.asked[0]] == ["system", "user"]
    task = load_task("gsm8k")
    assert engine.asked[0][1]["content"] == task.prompt(Question("", {"question": "What is 0 plus 1?"}))
    assert [record["answer"] for record in records] == ["1", "2", "3", "4", None, "7"]


def test_a_question_that_leaves_no_room_is_counted_and_not_asked(tmp_path, monkeypatch):
    engine = Scripted()
    engine.context = 10
    monkeypatch.setattr(engine, "generate", lambda requests, sampling: iter(()) if not requests else pytest.fail("asked"))
    records, metrics = run(tmp_path, monkeypatch, engine)
    assert {record["finish_reason"] for record in records} == {"unasked"}
    assert all("the model takes 10 with the response" in record["reason"] for record in records)
    assert (metrics["accuracy"], metrics["answered"], metrics["ended"]) == (0.0, 0.0, 0.0)


@pytest.mark.parametrize("name", available_tasks())
def test_every_task_has_a_chat_form(name):
    """Its prompt holds the question and says how to answer; the answer that a worked example states is read from a chat model's words."""
    task = load_task(name)
    fields = {field: f"<{field}>" for field in task.data.fields}
    prompt = task.chat_prompt(Question("", fields))
    assert all(value in prompt for value in fields.values())
    assert "answer" in prompt
    for example in task.examples:
        question, stated = Question("", example.fields, (example.answer,)), task.stated_answer("".join(task.ended(example.thoughts)))
        boxed = stated.strip("$.").removeprefix("\\boxed{").removesuffix("}")
        said = f"We get \\boxed{{{boxed}}}." if name == "math" else f"**The final answer is: {stated}**"
        assert task.is_gold(task.chat_answer("We think.\n\n" + said, "stop"), question), said


def test_a_task_of_ones_own_needs_no_chat_section(tmp_path):
    """Asked by its instruction and question; or as its `chat` says, with patterns of its own."""
    text = "extends: bamboogle\ndescription: mine\nexamples: []\njudge: null\ninstruction: Answer in Latin.\nquestion: 'Q: {q}'\n"
    text += "data: {fields: {q: q}}\n"
    (tmp_path / "mine.yaml").write_text(text + "chat: {}\n")
    task = load_task(str(tmp_path / "mine.yaml"))
    assert task.chat_prompt(Question("", {"q": "Why?"})).startswith("Answer in Latin.\n\nQ: Why?\n\nThink step by step.")
    assert task.chat_answer("Well.\n\nAnswer: quia.", "stop") == "quia"
    (tmp_path / "mine.yaml").write_text(text + "chat: {question: '{q}!', statement: Say >>x<<., answer: ['>>(.+?)<<', 'I say (\\w+)']}\n")
    task = load_task(str(tmp_path / "mine.yaml"))
    assert task.chat_prompt(Question("", {"q": "Why"})) == "Why!\n\nSay >>x<<."
    found = [task.chat_answer(text, "stop") for text in (">>a<< or >>b<<", "I say c", "The answer is d.")]
    assert found == ["b", "c", None]
    for chat, message in (
        ("{question: '{p}'}", r"chat.question has the placeholders \['p'\], but the question has \['q'\]"),
        ("{answer: ['x']}", "has 0 groups"),
        ("{kind: numbre}", r"chat.kind is 'numbre'"),
        ("{stop: []}", r"chat.stop is not a key"),
    ):
        (tmp_path / "mine.yaml").write_text(text + f"chat: {chat}\n")
        with pytest.raises(AlignError, match=message):
            load_task(str(tmp_path / "mine.yaml"))


def test_the_form_follows_the_chat_template():
    task, tokenizer = load_task("gsm8k"), byte_level_tokenizer()
    assert form_of(None, task, tokenizer)[0] == "chat"
    tokenizer.chat_template = None
    assert form_of(None, task, tokenizer)[0] == "examples"
    with pytest.raises(AlignError, match="the model has no chat template"):
        form_of("chat", task, tokenizer)
    with pytest.raises(AlignError, match="form is 'chatt': did you mean 'chat'"):
        form_of("chatt", task, tokenizer)
    assert TEMPLATE
    assert [FORMS[name](task).read("The answer is 1", "length") for name in ("chat", "examples_in_chat")] == [None, None]


def test_what_differs_between_two_evaluations_is_named(tmp_path, monkeypatch):
    run(tmp_path / "a", monkeypatch, Scripted())
    run(tmp_path / "b", monkeypatch, Scripted())
    assert differences(tmp_path / "a", tmp_path / "b") == []
    run(tmp_path / "c", monkeypatch, Scripted(), form="examples", stop_token_ids=["<|endoftext|>"])
    found = dict(one.split(": ", 1) for one in differences(tmp_path / "a", tmp_path / "c"))
    assert found.keys() == {"form", "prompt", "max new tokens", "stop", "stop token ids"}
    assert found["form"] == "chat, examples"
    assert found["max new tokens"] == "1024, 384"
    assert found["stop token ids"] == "[], [0]"
    run(tmp_path / "d", monkeypatch, Scripted(), engine={"engine": "vllm", "dtype": "bfloat16"}, system="", max_new_tokens=8)
    found = dict(one.split(": ", 1) for one in differences(tmp_path / "a", tmp_path / "d"))
    assert found.keys() == {"engine.engine", "engine.dtype", "system", "prompt", "max new tokens"}
    assert found["engine.dtype"] == "float32, bfloat16"


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"stop_token_ids": ["<|eot_id|>"]}, r"^stop_token_ids: '<\|eot_id\|>' is no single token"),
        ({"system": "x", "form": "examples"}, "^system: prompts are plain text here"),
        ({"form": "few_shot"}, "^form is 'few_shot': "),
    ],
)
def test_mistakes(changed, message, tmp_path, monkeypatch):
    with pytest.raises(AlignError, match=message):
        run(tmp_path, monkeypatch, Scripted(), **changed)


@pytest.mark.slow
def test_a_comparison_says_what_was_asked_otherwise(base_folder, tmp_path):
    (tmp_path / "gsm8k.jsonl").write_text("".join(json.dumps(record) + "\n" for record in QUESTIONS))
    suite = ("eval", base_folder, "--suite", "gsm8k", "--data", f"gsm8k={tmp_path}/gsm8k.jsonl", "--max-new-tokens", "8")
    first = align(*suite, "--output", tmp_path / "first", "--limit", "4")
    assert first.returncode == 0, first.stderr[-2000:]
    assert "readable" in first.stdout
    more = ("--system", "be kind", "--stop-token", "<|endoftext|>", "--stop-token", "7", "--dtype", "bfloat16")
    other = align(*suite, *more, "--output", tmp_path / "other", "--against", tmp_path / "first")
    assert other.returncode == 0, other.stderr[-2000:]
    told = " ".join(other.stdout.split())
    assert "gsm8k: the two were not asked alike" in told
    for words in ("engine.dtype: bfloat16, float32", "system: be kind, null", "stop token ids: [0, 7], []"):
        assert words in told
    assert "compared on the 4 questions that both were asked (6 here, 4 there)" in told
    asked = json.loads((tmp_path / "other/gsm8k/evaluate/asked.json").read_text())
    assert (asked["form"], asked["prompt"][0]) == ("chat", {"role": "system", "content": "be kind"})
