"""The report of trainings side by side, and the model card; those of DICE, CPO and code stand with their runs' tests."""

import json
import shutil

import pytest
import yaml
from conftest import align, align_here, byte_level_tokenizer, open_page, random_model
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from eval.report.tracking import track

pytestmark = [pytest.mark.slow]


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Two variants of DPO, one with a learning rate that ruins the model."""
    folder = tmp_path_factory.mktemp("report")
    random_model(scale=0.1).save_pretrained(folder / "model")
    byte_level_tokenizer().save_pretrained(folder / "model")
    pairs = [{"prompt": f"What is {n}?", "chosen": f" It is {n}.", "rejected": " No idea, of course."} for n in range(24)]
    (folder / "pairs.jsonl").write_text("".join(json.dumps(pair) + "\n" for pair in pairs))
    recipe = {
        "description": "A <b>small</b> run",
        "model": {"name_or_path": str(folder / "model"), "dtype": "float32"},
        "data": {"train": str(folder / "pairs.jsonl")},
        "training": {
            "output_dir": str(folder / "run"), "max_steps": 10, "per_device_train_batch_size": 4, "bf16": False, "report_to": "none",
            "gradient_checkpointing": False, "logging_steps": 1, "monitor_prompts": 2, "monitor_max_new_tokens": 4, "disable_tqdm": True,
        },
        "variants": {"careful": {"training.learning_rate": 1e-5}, "wild": {"training.learning_rate": 3e-2}},
    }  # fmt: skip
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    done = align("run", folder / "recipe.yaml")
    assert done.returncode == 0, done.stderr[-3000:]
    return folder / "run", done.stdout


@pytest.mark.parametrize("width", [1280, 390])
def test_runs_stand_side_by_side_with_the_monitors_warnings(width, runs, browser):
    folder, printed = runs
    assert f"report: {folder / 'report.html'}" in printed
    page = open_page(browser, folder / "report.html", width)
    assert page.locator("h1").inner_text() == "2 runs: careful, wild"
    assert page.get_by_role("img", name="training loss").count() == 1
    for name in ("careful", "wild"):
        assert page.get_by_role("img", name=f"3D monitor, {name}: train").count() == 1
    warnings = page.locator("p.warning").all_inner_texts()
    assert any(text.startswith("wild: train") and "drastic drop" in text for text in warnings)
    assert not any(text.startswith("careful") for text in warnings)
    assert "A <b>small</b> run" in page.locator("p").first.inner_text(), "what a recipe says is text"
    one = open_page(browser, folder / "wild" / "report.html", width)
    assert one.locator("h1").inner_text() == "wild: DPO"


def test_the_card_says_how_the_model_came_about(runs):
    card = (runs[0] / "wild/train/model/README.md").read_text()
    head = yaml.safe_load(card.split("---\n")[1])
    assert head == {"library_name": "transformers", "tags": ["align", "preference-optimization", "dpo"]}
    assert "on 24 preference trees" in card
    assert "| learning_rate | 0.03 |" in card
    assert "- drastic drop: " in card
    assert str(runs[0]) not in card


def test_the_command_takes_runs_or_a_folder_of_runs(runs, tmp_path):
    folder = runs[0]
    found = align_here("report", folder / "careful", folder / "wild", "--output", tmp_path / "two.html")
    assert found.returncode == 0
    assert found.stdout.endswith(f"{tmp_path / 'two.html'}: 2 runs\n")
    assert (tmp_path / "two.html").read_text() == (folder / "report.html").read_text()
    found = align_here("report", tmp_path)
    assert (found.returncode, "there is no run in this folder" in found.stderr) == (2, True)


def test_trackers_get_tables_curves_and_the_page(runs, tmp_path, offline_wandb):
    """Real wandb and real tensorboard, read back."""
    run = tmp_path / "run"
    shutil.copytree(runs[0] / "wild", run)
    recipe = yaml.safe_load((run / "recipe.yaml").read_text())
    recipe["training"]["report_to"] = ["wandb", "tensorboard"]
    (run / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    assert track(run, run / "report.html") == ["wandb", "tensorboard"]
    (media,) = (run / "wandb").glob("offline-run-*/files/media")
    tables = {path.name.split("_")[0]: json.loads(path.read_text()) for path in (media / "table").rglob("*.json")}
    assert tables["costs"]["columns"][:2] == ["stage", "seconds"]
    assert [row[0] for row in tables["costs"]["data"]] == ["train"]
    assert len(list((media / "html").glob("report*.html"))) == 1
    events = EventAccumulator(str(run / "tensorboard"))
    events.Reload()
    assert "costs/text_summary" in events.Tags()["tensors"]
    (drifts,) = (run / "tensorboard").glob("3d_train_rejected")
    curve = EventAccumulator(str(drifts))
    curve.Reload()
    three_d = [json.loads(line) for line in (run / "train/three_d.jsonl").read_text().splitlines()]
    assert [event.value for event in curve.Scalars("3d/train")] == pytest.approx(
        [entry["3d/rejected_drift"] for entry in three_d], rel=1e-4
    )
