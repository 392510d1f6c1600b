"""A report draws a run whatever its folder is called: the name is shown, and is never markup, a formula or a template."""

import json
import os
import shutil

import pytest
import yaml
from conftest import open_page

from align.runs import RunFolder
from eval.report import write_report

NAMES = [
    'a "b"', "<script>alert(1)<", "line\nbreak", "100% sure", "costs $5$ or $\\frac{1}{0$", "😀 emoji 家", "-dash", "_under", "sp ace", "q'uote", "&amp;", "a\\nb",
    "{{ 1 + 1 }}", "[x]*?", "x" * 200, "#hash;semi", "‮RTL", "\x1b[31mred", "tab\there", os.fsdecode(b"no \xff\xfe UTF-8"),
]  # fmt: skip


def make_run(path):
    """What a training leaves, without one."""
    path.mkdir(parents=True)
    (path / "recipe.yaml").write_text(yaml.safe_dump({"model": {"name_or_path": "m"}, "training": {"monitor_3d": True}}))
    (path / "train").mkdir()
    log = [{"step": n, "loss": 1 / n, "rewards/margins": n / 9, "num_tokens": 9 * n} for n in range(1, 5)]
    drifts = [{"step": n, "3d/chosen_drift": 0.1, "3d/rejected_drift": -n, "3d/unseen_drift": 0.0, "findings": []} for n in range(5)]
    for name, records in (("log", log), ("three_d", drifts)):
        (path / "train" / f"{name}.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    RunFolder(path).finish("train", "key", 1.0)
    (path / "evaluate").mkdir()
    (path / "evaluate" / "metrics.json").write_text('{"accuracy": 0.5}')
    RunFolder(path).finish("evaluate", "key", 1.0)
    return path


@pytest.mark.slow
def test_a_report_draws_any_folder_name(tmp_path):
    made = make_run(tmp_path / "run")
    runs = [shutil.copytree(made, tmp_path / name) for name in NAMES]
    for start in range(0, len(runs), 5):
        write_report(runs[start : start + 5], tmp_path / "report.html")
        text = (tmp_path / "report.html").read_text(encoding="utf-8")
        assert "Not in this report" not in text
        assert "<script>alert" not in text
        assert text.count("<svg") >= 8


@pytest.mark.slow
def test_a_browser_shows_the_name_as_it_is(tmp_path, browser):
    made = make_run(tmp_path / "run")
    runs = [shutil.copytree(made, tmp_path / name) for name in NAMES[1:3] + NAMES[4:6]]
    write_report(runs, tmp_path / "report.html")
    page = open_page(browser, tmp_path / "report.html")
    assert page.locator("h1").inner_text().startswith("4 runs: <script>alert(1)<, line")
    assert page.get_by_role("img", name="3D monitor, costs $5$ or $\\frac{1}{0$: train").count() == 1
