"""From a file of one's own to a trained model and its report: `align init`, `align run`, and what is said on the way."""

import json
from pathlib import Path

import pytest
from conftest import align_here, byte_level_tokenizer, random_model
from forms import OTHERS, PAIRS

QUICK = [
    "training.max_steps=1", "training.monitor_3d=false", "training.save_strategy=no", "training.gradient_checkpointing=false",
    "training.use_cpu=true",
]  # fmt: skip


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    for name, seed in (("model", 0), ("reference", 1)):
        random_model(seed=seed).save_pretrained(folder / name)
        byte_level_tokenizer().save_pretrained(folder / name)
    return folder


@pytest.fixture(autouse=True)
def in_an_empty_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def begun(models, file, content, *further):
    with open(file, "wb") as out:
        out.write(content)
    return align_here("init", file, "--model", models / "model", *further)


def path_to_report(models, name, tmp_path):
    file, content, said = PAIRS[name]
    made = begun(models, file, content)
    assert (made.returncode, made.stderr) == (0, "")
    assert f"{file}: 40 pairs" in made.stdout
    assert said in made.stdout
    assert "recipe.yaml: a recipe for DPO" in made.stdout
    done = align_here("run", "recipe.yaml", *QUICK)
    assert done.returncode == 0, done.stderr
    (report,) = tmp_path.glob("runs/*/report.html")
    assert f"report: {report.relative_to(tmp_path)}" in done.stdout
    assert (report.parent / "train" / "model" / "model.safetensors").is_file()


@pytest.mark.slow
@pytest.mark.parametrize("name", ["a mark and UTF-16", "CSV of other names"])
def test_from_pairs_of_ones_own_to_a_report(name, models, tmp_path):
    path_to_report(models, name, tmp_path)


@pytest.mark.slow
@pytest.mark.exhaustive
@pytest.mark.parametrize("name", [name for name in PAIRS if name not in ("a mark and UTF-16", "CSV of other names")])
def test_from_pairs_of_every_form_to_a_report(name, models, tmp_path):
    path_to_report(models, name, tmp_path)


@pytest.mark.slow
@pytest.mark.exhaustive
def test_from_prompts_and_a_reference_to_a_report_by_dice(models, tmp_path):
    made = begun(models, "prompts.jsonl", OTHERS["prompts"][1].encode(), "--reference", models / "reference")
    assert "a recipe for DICE" in made.stdout
    small = ["rounds.count=1", "rollouts.limit=8", "rollouts.samples=6", "rollouts.max_new_tokens=16"]
    small.append("rounds.filter={drop_truncated: false, min_characters: 1, min_responses: 3}")
    done = align_here("run", "recipe.yaml", *QUICK, *small)
    assert done.returncode == 0, done.stderr
    assert list(tmp_path.glob("runs/prompts/report.html"))


@pytest.mark.slow
@pytest.mark.parametrize("name", [*PAIRS, *OTHERS])
def test_every_form_gets_a_recipe_that_passes_the_dry_run_and_can_be_shown(name, models):
    file, content, *rest = {**PAIRS, **OTHERS}[name]
    made = begun(models, file, content if isinstance(content, bytes) else content.encode())
    assert (made.returncode, made.stderr) == (0, "")
    assert all(said in made.stdout for said in rest)
    offline = ["code.decontaminate=[]"] if name == "problems with tests" else []
    checked = align_here("run", "recipe.yaml", "--dry-run", *offline)
    assert checked.returncode == 0, checked.stderr
    shown = align_here("show", "--as-model-sees", "recipe.yaml", "--first", "2")
    assert shown.returncode == 0, shown.stderr
    assert shown.stdout.count("prompt, ") == 2
    if name in PAIRS:  # as the chat template has it, whatever the form
        assert "<|im_end|>│⏎│<|im_start|>│a│s│s│i│st│an│t│⏎" in shown.stdout
        assert "trained: made more likely:\n    The│re│ are│ │1│ apples" in shown.stdout
        assert "trained: made less likely:\n    It│ is│ five" in shown.stdout


def test_a_recipe_that_is_there_is_kept(models, tmp_path):
    (tmp_path / "recipe.yaml").write_text("mine")
    made = begun(models, *PAIRS["JSON lines"][:2])
    assert made.returncode == 2
    assert "recipe.yaml is there already" in made.stderr
    assert (tmp_path / "recipe.yaml").read_text() == "mine"


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "there is no record in it"),
        (b"not json\n", "none of the first 1 lines is a record; the first: the line is not JSON"),
        (b'{"foo": "a", "bar": "b"}\n', "it is not clear what the columns foo, bar hold"),
        (b'{"prompt": "a", "chosen": "b", "rejected": "b"}\n', "line 1: `chosen` and `rejected` are the same response"),
    ],
)
def test_data_of_no_use_are_said_in_one_sentence_and_nothing_is_written(content, said, models, tmp_path):
    made = begun(models, "data.jsonl", content)
    assert made.returncode == 2
    assert said in made.stderr
    assert made.stderr.count("\n") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["data.jsonl"]


def test_what_init_could_not_tell_is_said_and_stands_in_the_recipe(tmp_path):
    (tmp_path / "pairs.jsonl").write_text('{"prompt": "a", "chosen": "b", "rejected": "c"}\n' * 4 + '{"prompt": "a", "chosen": "b"}\n')
    made = align_here("init", "pairs.jsonl", "--model", "micro:sums", "--to", "r.yaml")
    assert made.returncode == 0, made.stderr
    recipe = " ".join((tmp_path / "r.yaml").read_text().replace("\n#", "").split())
    for said in ("lengths were not measured", "1 of 5 records cannot be used; the first: pairs.jsonl line 5", "nothing parts them"):
        assert said in made.stdout
        assert said in recipe
    assert "max_rejected_share: 0.2" in recipe


def test_what_is_cut_and_what_is_left_out_is_shown(models, tmp_path):
    (tmp_path / "pairs.jsonl").write_text(
        '{"prompt": "a b ", "chosen": "It is five, of course. It is five", "rejected": "c"}\n{"prompt": "a", "chosen": "b"}\n'
    )
    (tmp_path / "r.yaml").write_text(
        f"model: {{name_or_path: {models / 'model'}}}\ndata: {{train: pairs.jsonl}}\ntraining: {{max_length: 8}}\n"
    )
    shown = align_here("show", "--as-model-sees", "r.yaml")
    assert "more are cut off (training.max_length)" in shown.stdout
    assert "left out: no column 'rejected'" in shown.stdout
    (tmp_path / "t.jsonl").write_text(
        '{"prompt": "a ", "nodes": [{"text": "b"}, {"text": "c"}, {"text": " d", "parent": 0}, {"text": " e", "parent": 0}], '
        '"edges": [{"chosen": 0, "rejected": 1}, {"chosen": 2, "rejected": 3}]}\n'
    )
    shown = align_here("show", "--as-model-sees", "r.yaml", "data.train=t.jsonl", "training.max_length=null")
    assert "node 2 below node 0, 2 tokens, trained: made more likely" in shown.stdout


def test_what_is_not_used_of_prompts_is_named(models, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("prompts.jsonl").write_text(json.dumps({"prompt": "a", "response_a": "b", "response_b": "c", "preferred": "a", "id": "7"}))
    done = align_here("init", "prompts.jsonl", "--model", models / "model")
    assert "of no form that is read, and not used: response_a, response_b, preferred" in done.stdout
    Path("pairs.csv").write_text("question,correct_answer,incorrect\n1+1?,2,3\n2+2?,4,5\n")
    done = align_here("init", "pairs.csv", "--model", models / "model", "--to", "pairs.yaml")
    assert "2 pairs: under other names, prompt is 'question', chosen is 'correct_answer', rejected is 'incorrect'" in done.stdout


@pytest.mark.parametrize(("name", "said"), [("notes.txt", "a file of this type is not read"), ("r.yaml", "--as-model-sees RECIPE")])
def test_a_file_that_is_no_data_is_not_looked_for_on_the_hub(name, said, tmp_path):
    (tmp_path / name).write_text("x: y\n")
    done = align_here("show", tmp_path / name)
    assert done.returncode == 2
    assert said in done.stderr
