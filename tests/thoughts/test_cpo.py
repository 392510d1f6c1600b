"""Whole runs of CPO on a tiny random model: what each stage leaves, what a kill costs, what a mistake says."""

import json
import re
from pathlib import Path

import pytest
import yaml
from conftest import align, align_here, byte_level_tokenizer, kill_at_random, open_page, random_model
from scripted import TASK

from align.runs import read_journal
from align.trees import pairs_from_tree, read_trees
from data_pipelines.thought_trees.stages import read_searches
from eval.report.gather import read_evaluation

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("cpo")]
ROOT = Path(__file__).parent.parent.parent
WORDS = ["apples", "answers", "sums", "questions", "courses", "looks", "sees", "leaves"]


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    random_model().save_pretrained(folder)
    byte_level_tokenizer().save_pretrained(folder)
    return folder


def write_recipe(folder, model):
    """Two steps that end at an `e` or `a`; the judge likes short thoughts, so that any model passes."""
    task = {
        **TASK,
        "data": {"fields": {"question": "question"}, "gold": "answer"},
        "markers": ["e", "a"],
        "next_step": [],
        "answer": r"(\w+)",
    }
    (folder / "task.yaml").write_text(yaml.safe_dump(task))
    for name, words in (("questions", WORDS), ("test", WORDS[:2])):
        rows = [{"question": f"What of {word}?", "answer": "five"} for word in words]
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    recipe = {
        "model": {"name_or_path": str(model), "dtype": "float32", "lora": {"r": 4, "dropout": 0.0}},
        "rollouts": {"prompts": str(folder / "questions.jsonl"), "samples": 6, "temperature": 1.0, "batch": 32},
        "thoughts": {"task": str(folder / "task.yaml"), "judge": {"name": "length"}, "min_characters": 1, "together": 2},
        "training": {
            "output_dir": str(folder / "run"), "max_steps": 6, "per_device_train_batch_size": 2, "learning_rate": 1e-2, "bf16": False,
            "report_to": "none", "gradient_checkpointing": False, "save_strategy": "steps", "save_steps": 1, "monitor_prompts": 2, "monitor_max_new_tokens": 4,
            "logging_steps": 1, "seed": 3, "disable_tqdm": True,
        },
        "measure": [{"suite": "questions", "data": str(folder / "test.jsonl")}],
    }  # fmt: skip
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    return folder / "recipe.yaml"


@pytest.fixture(scope="module")
def finished(model, tmp_path_factory):
    """A run that nothing disturbed: its folder, and what it printed."""
    folder = tmp_path_factory.mktemp("finished")
    done = align("run", write_recipe(folder, model))
    assert done.returncode == 0, done.stderr[-3000:]
    return folder / "run", done.stdout


def test_a_run_searches_trains_and_measures_before_and_after(finished):
    run, printed = finished
    for stage in (
        "start/questions/evaluate",
        "start/questions/search",
        "start/questions/grade",
        "search",
        "edges",
        "train",
        "questions/evaluate",
    ):
        assert (run / stage / "manifest.json").exists()
        assert stage in printed
    assert "tree search" in printed
    for stage in ("start/questions/evaluate", "start/questions/grade", "questions/evaluate"):
        metrics = json.loads((run / stage / "metrics.json").read_text())
        assert {"accuracy", "answered", "tokens", "seconds", "questions"} <= set(metrics)
        assert metrics["questions"] == 2
    read = {
        stage: read_evaluation(stage, run / stage) for stage in ("start/questions/evaluate", "start/questions/grade", "questions/evaluate")
    }
    assert len({frozenset(one.items) for one in read.values()}) == 1, "search and plain decoding are compared question by question"
    for one in read.values():
        assert sum(one.items.values()) / len(one.items) == one.metrics["accuracy"]
        assert set(one.questions.values()) == {f"What of {word}?" for word in WORDS[:2]}
    assert (run / "train" / "model" / "model.safetensors").exists()
    assert (run / "train" / "adapter" / "adapter_config.json").exists()


def test_searches_are_saved_whole_and_questions_to_be_tested_on_are_left_out(finished):
    run, _ = finished
    journal, set_aside = read_searches(run / "search" / "searches")
    searched = {tree.metadata["search"]["question"]["question"] for tree in journal}
    searched |= {record["question"]["question"] for record in set_aside.values()}
    assert searched == {f"What of {word}?" for word in WORDS[2:]}
    trees, _ = read_trees(run / "edges" / "searches.jsonl")
    assert [tree.id for tree in trees] == sorted(tree.id for tree in journal)
    assert all(node.score is not None and node.token_ids for tree in trees for node in tree.nodes)
    statistics = json.loads((run / "edges" / "statistics.json").read_text())
    assert statistics["questions"] == len(WORDS) - 2
    assert statistics["edges"] == sum(len(tree.edges) for tree in trees) > 10


def test_flat_pairs_are_the_trained_ones_in_text(finished):
    run, _ = finished
    trained, _ = read_trees(run / "edges" / "pairs.jsonl")
    flat = [json.loads(line) for line in (run / "edges" / "flat.jsonl").read_text().splitlines()]
    assert flat == [pair for tree in trained for pair in pairs_from_tree(tree)]


def test_show_draws_a_search_with_its_kept_path_values_and_edges(finished):
    run, _ = finished
    shown = align("show", run / "edges" / "searches.jsonl", "--first", 1)
    assert shown.returncode == 0
    assert "→" in shown.stdout
    assert "kept" in shown.stdout
    assert "beats" in shown.stdout
    assert "What of" in shown.stdout


def test_killed_at_random_points_it_ends_with_the_same_trees_and_weights(model, tmp_path):
    assert "the same to the byte" in kill_at_random(write_recipe(tmp_path, model), tmp_path / "runs", 1)


MISTAKES = {
    "unknown task": (["thoughts.task=gsm9k"], "thoughts.task 'gsm9k': no such task: did you mean 'gsm8k'"),
    "unknown judge": (["thoughts.judge.name=self_evaluatoin"], "thoughts.judge is 'self_evaluatoin': did you mean 'self_evaluation'"),
    "nobody to judge": (["thoughts.judge.name=implicit"], "model.reference is missing: the judge 'implicit'"),
    "no prompt for the judge": (["thoughts.task=sums", "thoughts.judge.name=self_evaluation"], "the task 'sums' has no `judge`"),
    "wrong column": (["thoughts.task=sums"], "questions.jsonl line 1: there is no column 'problem'"),
    "no questions": (["measure.0.data=none.jsonl"], "measure.0.data 'none.jsonl': no such file"),
    "greedy": (["rollouts.temperature=0"], "rollouts.temperature is 0"),
    "keep": (["thoughts.keep=12", "thoughts.keep_at_most=10"], "thoughts.keep is 12: expected 1 to keep_at_most (10)"),
    "keep nothing": (["thoughts.keep=0"], "thoughts.keep is 0: expected 1 or more"),
    "other suite": (["measure.0.suite=sums"], "measure.0: data is of no use with the suite 'sums'"),
    "misspelt": (["thoughts.kepe=3"], "thoughts.kepe is not a key: did you mean 'keep'"),
}


@pytest.mark.parametrize("width", [1280, 390])
def test_the_reports_trees_open_and_can_be_searched(width, finished, browser):
    page = open_page(browser, finished[0] / "report.html", width)
    trees = page.locator("details.tree")
    total = trees.count()
    assert total > 1
    assert page.locator("details.tree li").first.is_hidden()
    page.get_by_role("button", name="open all").click()
    assert page.locator("details.tree li").first.is_visible()
    assert page.locator("li.kept").count() >= total
    assert page.locator("li.chosen").count() > 0
    assert page.locator("li.rejected").count() > 0
    wanted = trees.nth(1).locator("summary").inner_text().partition(" →")[0]
    page.get_by_role("searchbox").fill(wanted)
    shown = [trees.nth(place).is_visible() for place in range(total)]
    assert shown[1]
    assert sum(shown) < total
    assert page.locator(".count").inner_text() == f"{sum(shown)} of {total}"


@pytest.mark.parametrize("name", MISTAKES)
def test_mistake_is_one_sentence(name, model, tmp_path):
    arguments, message = MISTAKES[name]
    done = align_here("run", write_recipe(tmp_path, model), "--dry-run", *arguments)
    assert done.returncode == 2, done.stderr[-2000:]
    assert message in done.stderr
    assert "Traceback" not in done.stderr


def test_rounds_go_around_searches(model, tmp_path):
    """Each round searches with the model that the round before trained; with `split`, other questions."""
    done = align("run", write_recipe(tmp_path, model), "rounds.count=2", "rounds.prompts=split", "measure.0.search=false")
    assert done.returncode == 0, done.stderr[-3000:]
    assert re.findall(r"^(\S+) +done in", done.stdout, re.MULTILINE) == [
        "start/questions/evaluate", *(f"round-{n}/{stage}" for n in (1, 2) for stage in ("search", "edges", "train", "questions/evaluate"))
    ]  # fmt: skip
    run = tmp_path / "run"
    questions = [set(read_journal(run / f"round-{n}/search/searches")) for n in (1, 2)]
    assert questions[0]
    assert questions[1]
    assert not questions[0] & questions[1]
    second = json.loads((run / "round-2/search/stage.json").read_text())
    assert second["inputs"]["model"] == str(run / "round-1/train/model")
    report = (run / "report.html").read_text()
    assert "iterated CPO" in report
    assert "Not in this report" not in report


def test_when_no_search_gives_a_pair_the_first_reason_is_told_and_everything_is_kept(model, tmp_path):
    done = align("run", write_recipe(tmp_path, model), "thoughts.min_characters=999", "measure=null")
    assert done.returncode == 2
    assert "no preference can be made of 8 searches" in done.stderr
    assert "the first reason: step 1: no thought is left: " in done.stderr
    assert (tmp_path / "run" / "search" / "manifest.json").exists()


def test_training_alone_sends_the_user_to_align_run(model, tmp_path):
    done = align("train", write_recipe(tmp_path, model))
    assert done.returncode == 2
    assert "`align run` carries it through" in done.stderr
