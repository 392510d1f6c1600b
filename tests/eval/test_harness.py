"""`align eval --suite lm:…`: real lm-evaluation-harness, on tasks of the test's own (its own tasks' data lies on the hub)."""

import json
from dataclasses import replace

import pytest
import torch
import yaml
from conftest import align, align_here, needs_vllm
from transformers import AutoModelForCausalLM, AutoTokenizer

from align.errors import AlignError
from align.runs import RunFolder, Task, read_journal
from eval import harness
from eval.report.gather import read_evaluation
from eval.suites import read_results

WORDS = ["five", "sum?", "apples", "is left,", "42", "course", "then."]
QUESTIONS = [{"q": f"What is {n} plus 1? It is", "choices": [WORDS[(n + k) % 7] for k in (1, 2, 4)], "gold": n % 3} for n in range(1, 13)]
SHARED = {"dataset_path": "json", "test_split": "test", "doc_to_text": "{{q}}"}
CHOICE = {
    "task": "tiny_choice", "output_type": "multiple_choice", "doc_to_choice": "{{choices}}", "doc_to_target": "gold",
    "metric_list": [{"metric": "acc", "aggregation": "mean", "higher_is_better": True}, {"metric": "acc_norm", "aggregation": "mean", "higher_is_better": True}],
}  # fmt: skip
TEXT = {
    "task": "tiny_text", "output_type": "generate_until", "doc_to_target": "{{choices[gold]}}",
    "generation_kwargs": {"until": ["\n"], "max_gen_toks": 4, "do_sample": False},
    "metric_list": [{"metric": "exact_match", "aggregation": "mean", "higher_is_better": True}],
}  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("harness")
    (folder / "questions.jsonl").write_text("".join(json.dumps(one) + "\n" for one in QUESTIONS))
    for task in (CHOICE, TEXT):
        data = {"dataset_kwargs": {"data_files": {"test": str(folder / "questions.jsonl")}}}
        (folder / f"{task['task']}.yaml").write_text(yaml.safe_dump({**SHARED, **data, **task}))
    return folder


def answers(model, tokenizer, question):
    """Log-prob of each choice, behind a blank, by a plain forward of transformers, and its length in characters."""
    found = []
    for choice in question["choices"]:
        ids = tokenizer(f"{question['q']} {choice}", return_tensors="pt").input_ids
        start = len(tokenizer(question["q"]).input_ids)
        with torch.no_grad():
            logps = model(ids).logits.log_softmax(-1)[0, :-1].gather(-1, ids[0, 1:, None])[:, 0]
        found.append((float(logps[start - 1 :].sum()), len(choice)))
    return found


@pytest.mark.slow
def test_choices_are_graded_as_a_plain_forward_grades_them(folder, base_folder, tmp_path):
    suites = [f"lm:{folder}/tiny_choice.yaml", f"lm:{folder}/tiny_text.yaml"]
    arguments = [part for suite in suites for part in ("--suite", suite)]
    done = align("eval", base_folder, *arguments, "--no-chat", "--dtype", "float32", "--output", tmp_path)
    assert done.returncode == 0, done.stderr[-3000:]
    found = read_results(suites, RunFolder(tmp_path))
    model = AutoModelForCausalLM.from_pretrained(base_folder, dtype=torch.float32).eval()
    scored = [answers(model, AutoTokenizer.from_pretrained(base_folder), one) for one in QUESTIONS]
    likeliest = [max(range(3), key=lambda i, one=one: one[i][0]) for one in scored]
    assert len(set(likeliest)) > 1
    choices = found[suites[0]]
    assert [choices.items[str(i)] for i in range(12)] == [
        float(best == one["gold"]) for best, one in zip(likeliest, QUESTIONS, strict=True)
    ]
    assert [choices.responses[str(i)] for i in range(12)] == [
        " " + one["choices"][best] for best, one in zip(likeliest, QUESTIONS, strict=True)
    ]
    by_length = [max(range(3), key=lambda i, one=one: one[i][0] / one[i][1]) for one in scored]
    assert list(choices.metrics) == ["acc", "acc low", "acc high", "acc_norm"]
    assert choices.metrics["acc_norm"] == pytest.approx(
        sum(best == one["gold"] for best, one in zip(by_length, QUESTIONS, strict=True)) / 12
    )
    low, high = (found[suites[1]].metrics[f"exact_match {end}"] for end in ("low", "high"))
    assert found[suites[1]].metrics == {"exact_match": 0.0, "exact_match low": low, "exact_match high": high}
    assert (low, round(high, 2)) == (0.0, 0.24)
    assert len(found[suites[1]].items) == 12
    rows = [line.split()[:3] for line in done.stdout.splitlines() if "% to" in line]
    assert rows[0][1:] == ["acc", f"{choices.metrics['acc']:.1%}"]


def stage(task, model, tmp_path, shots=None, chat=False, limit=None):
    engine = {"engine": "transformers", "dtype": "float32"}
    settings = {"task": str(task), "shots": shots, "chat": chat, "limit": limit, "engine": engine, "system": None, "max_new_tokens": None}
    return Task("lm-tiny_choice/evaluate", tmp_path, settings, {"model": str(model)})


@pytest.mark.slow
def test_what_was_asked_is_not_asked_again(folder, base_folder, tmp_path, monkeypatch):
    """Interrupted before its numbers were written; with the chat template and two examples in front."""
    task = stage(folder / "tiny_choice.yaml", base_folder, tmp_path, shots=2, chat=True, limit=8)
    harness.evaluate(task)
    metrics = (tmp_path / "metrics.json").read_bytes()
    records = read_journal(tmp_path / "answers")
    assert len(records) == 8
    prompt = records["0"]["question"]["prompt"]
    assert (prompt.count("<|im_start|>user"), prompt.count("<|im_start|>assistant")) == (3, 3)
    (tmp_path / "metrics.json").unlink()
    from lm_eval.models.huggingface import HFLM

    monkeypatch.setattr(HFLM, "loglikelihood", lambda *_: pytest.fail("asked again"))
    harness.evaluate(task)
    assert (tmp_path / "metrics.json").read_bytes() == metrics
    assert read_journal(tmp_path / "answers") == records


@pytest.mark.slow
def test_responses_end_at_the_stop_tokens_too(folder, base_folder, tmp_path):
    """One that no tokenizer calls special; in a batch, where the other responses go on."""
    said = {}
    for name, more in (("plain", {}), ("stopped", {"stop_token_ids": ["\x13"]})):
        (tmp_path / name).mkdir()
        task = stage(folder / "tiny_text.yaml", base_folder, tmp_path / name)
        harness.evaluate(replace(task, settings={**task.settings, "max_new_tokens": 8, **more}))
        said[name] = read_evaluation("", tmp_path / name).responses
    assert said["stopped"] == {id: text.partition("\x13")[0] for id, text in said["plain"].items()} != said["plain"]


@pytest.mark.exhaustive
@needs_vllm
@pytest.mark.slow
@pytest.mark.xdist_group("vllm")
def test_vllm_grades_an_adapter_as_transformers_does(folder, adapter_folder, tmp_path):
    harness.evaluate(stage(folder / "tiny_choice.yaml", adapter_folder, tmp_path))
    expected = read_evaluation("", tmp_path)
    suite = f"lm:{folder}/tiny_choice.yaml"
    arguments = ("--suite", suite, "--engine", "vllm", "--no-chat", "--dtype", "float32", "--output", tmp_path / "vllm")
    done = align("eval", adapter_folder, *arguments)
    assert done.returncode == 0, done.stderr[-3000:]
    found = read_results([suite], RunFolder(tmp_path / "vllm"))[suite]
    assert (found.responses, found.metrics) == (expected.responses, expected.metrics)


@pytest.mark.parametrize(
    ("suite", "more", "message"),
    [
        ("lm:arc_easy", ("--engine", "server"), "runs on transformers or vllm here, not on 'server'"),
        ("lm:arc_easy", ("--data", "lm:arc_easy=x.jsonl"), "name their data themselves"),
        ("lm:nowhere.yaml", (), "--suite lm:nowhere.yaml: no such file"),
    ],
)
def test_mistakes(suite, more, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    found = align_here("eval", "some/model", "--suite", suite, *more)
    assert (found.returncode, message in found.stderr) == (2, True), found.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_mistakes_that_only_the_harness_sees(folder, base_folder, tmp_path):
    """A task it does not have; one whose data lies on the hub, which tests do not reach."""
    for name, message in (("arc_easi", "did you mean 'arc_easy'?"), ("arc_easy", "lm:arc_easy: ConnectionError: ")):
        with pytest.raises(AlignError, match=message.replace("?", r"\?")):
            harness.evaluate(stage(name, base_folder, tmp_path))
