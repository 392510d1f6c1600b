"""Ten thousand damaged and odd files: whoever reads them says what is wrong in a sentence, and no finished record is lost."""

import contextlib
import json
import os
import shutil
import tempfile
from pathlib import Path

import pytest
import yaml
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from mutations import CHANGES, EDITS, VALUES, as_json, changed, edited

from align import plans, recipes
from align.errors import AlignError
from align.runs import External, Journal, Output, RunFolder, Stage, assess, read_journal
from align.runs.folder import WrittenOutputs
from align.trainers.checkpoints import Distribution, check_resume, newest_to_resume
from align.trees import Rejected, locate_trees
from data_pipelines.code_execution.extraction import program_of
from data_pipelines.code_execution.problems import Problem
from data_pipelines.code_execution.sandbox.tests import Assertions, Outputs
from data_pipelines.rollouts.prompts import read_prompts
from data_pipelines.thought_trees.tasks import load_task
from eval.report import gather, page

pytestmark = pytest.mark.slow
SHARE = float(os.environ.get("ALIGN_FUZZ", "1"))  # times as many cases


def cases(count):
    return settings(
        max_examples=round(count * SHARE), deadline=None, suppress_health_check=list(HealthCheck), database=None, derandomize=SHARE == 1
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """In memory where that can be: what is written ten thousand times need not reach a disk."""
    if not os.access("/dev/shm", os.W_OK):
        yield tmp_path_factory.mktemp("fuzz")
        return
    with tempfile.TemporaryDirectory(dir="/dev/shm") as made:
        yield Path(made)


# Journals

RECORDS = [(f"p{i}", {"text": "ü\n😀" * i, "logps": [-0.1 * i, 1e-9], "none": None, "deep": [[{"a": "\ud800"}]]}) for i in range(6)]


@cases(2600)
@given(EDITS)
def test_a_journal_keeps_every_record_whose_line_is_whole(folder, edits):
    path = folder / "journal" / "part-00000-of-00001.jsonl"
    shutil.rmtree(path.parent, ignore_errors=True)
    journal = Journal(path.parent)
    journal.append(RECORDS)
    journal.close()
    lines = path.read_bytes().splitlines(keepends=True)
    content = edited(path.read_bytes(), edits)
    path.write_bytes(content)
    whole = {
        id: record
        for line, (id, record) in zip(lines, RECORDS, strict=True)
        if line in content.split(b"\n") or b"\n" + line in b"\n" + content
    }
    found = read_journal(path.parent)
    assert whole.items() <= found.items()
    assert all(found[id] == dict(RECORDS)[id] for id in found)
    Journal(path.parent).close()
    assert read_journal(path.parent) == found
    again = Journal(path.parent)
    again.append((id, record) for id, record in RECORDS if id not in found)
    again.close()
    assert read_journal(path.parent) == dict(RECORDS)


def same(one, other):
    """As JSON sees it: halves of a surrogate pair side by side are the character, and not-a-number is itself."""
    return json.dumps(json.loads(json.dumps(one))) == json.dumps(other)


@cases(1000)
@given(st.dictionaries(st.text(st.characters(exclude_categories=["Cs"]), max_size=8), VALUES, max_size=4))
def test_whatever_is_journalled_is_read_back(folder, records):
    path = folder / "records"
    shutil.rmtree(path, ignore_errors=True)
    with contextlib.suppress(ValueError):  # an integer of more digits than Python writes
        journal = Journal(path)
        journal.append(records.items())
        journal.close()
        found = read_journal(path)
        assert found.keys() == records.keys()
        assert all(same(records[id], found[id]) for id in records)


# Control files


@pytest.fixture(scope="module")
def run(folder):
    """A run of two stages, as if it had been carried out."""
    (folder / "input.txt").write_text("5")
    stages = [
        Stage("one", "toy:one", {"count": 3}, {"given": External(str(folder / "input.txt"))}),
        Stage("two", "toy:two", {}, {"units": Output("one", "units")}),
    ]
    made = RunFolder(folder / "run")
    from align.runs.stage import Task, write_specification

    for stage in stages:
        here = made.stage(stage.name)
        (here / "units").mkdir(parents=True)
        (here / "units" / "a.json").write_text("[1]")
        key = assess(stages, made)[stages.index(stage)].key
        write_specification(Task(stage.name, here, stage.settings, {}, {}), stage.function, key)
        made.finish(stage.name, key, 1.0)
    with made.locked():
        pass
    (made.path / "recipe.yaml").write_text(yaml.safe_dump(RECIPE))
    assert [state.kind for state in assess(stages, made)] == ["done", "done"]
    return stages, made


def damaged(content, damage):
    """A control file's bytes with edits of its bytes or, where it is JSON, of its structure."""
    if len(damage[0]) == 4 or not content.startswith(b"{"):
        return edited(content, damage) if len(damage[0]) == 4 else as_json(damage[0][2])
    return as_json(changed(json.loads(content), damage))


CONTROL = ("one/manifest.json", "one/stage.json", "two/manifest.json", "inputs.json", "lock")


def look(stages, made):
    """All that reads control files."""
    states = assess(stages, made, WrittenOutputs(made).altered)
    for stage in stages:
        made.put_damaged_aside(stage.name)
        made.key_in_work(stage.name)
    made.is_locked()
    with made.locked(patience=0.0):
        pass
    return states


@cases(1200)
@given(st.sampled_from(CONTROL), EDITS | CHANGES)
def test_control_files_that_are_damaged_are_looked_at_anew(run, folder, file, damage):
    stages, made = run
    shutil.rmtree(folder / "damaged", ignore_errors=True)
    copy = RunFolder(shutil.copytree(made.path, folder / "damaged"))
    path = copy.path / file
    path.write_bytes(damaged(path.read_bytes(), damage))
    with contextlib.suppress(AlignError):
        look(stages, copy)
        assert (copy.path / "one" / "units" / "a.json").read_text() == "[1]"


@cases(150)
@given(st.sampled_from(CONTROL[:3]), EDITS | CHANGES)
def test_reports_show_what_is_left(run, folder, file, damage):
    _, made = run
    shutil.rmtree(folder / "shown", ignore_errors=True)
    copy = shutil.copytree(made.path, folder / "shown")
    (copy / file).write_bytes(damaged((copy / file).read_bytes(), damage))
    assert "<html" in page([gather(copy)])


# Recipes

RECIPE = {"model": {"name_or_path": "m"}, "data": {"train": "d"}, "training": {"learning_rate": 5e-7, "output_dir": "out"}}
SHIPPED = [(recipes.RECIPES / f"{name}.yaml").read_bytes() for name in ("dpo/llama3-8b", "micro/dice", "micro/cpo", "micro/code")]


def load(path):
    with contextlib.suppress(AlignError):
        for run in plans.runs_of(recipes.load(path)):
            assert run.stages


@cases(700)
@given(st.sampled_from(SHIPPED), EDITS)
def test_a_recipe_of_damaged_bytes_is_read_or_refused(folder, content, edits):
    path = folder / "bytes.yaml"
    path.write_bytes(edited(content, edits))
    load(path)


@cases(700)
@given(st.sampled_from([yaml.safe_load(content) for content in SHIPPED]), CHANGES)
def test_a_recipe_of_odd_structure_is_read_or_refused(folder, content, changes):
    path = folder / "structure.yaml"
    path.write_bytes(as_json(changed(content, changes)))
    load(path)


# Data

PAIRS = [
    {"prompt": "What?", "chosen": "a", "rejected": "b"},
    {"prompt": [{"role": "user", "content": "Hi"}], "chosen": [{"role": "assistant", "content": "a"}], "rejected": [{"role": "assistant", "content": "b"}]},
    {"chosen": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}], "rejected": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "b"}]},
    {"question": "q", "system": "s", "chosen": "a", "rejected": "b", "weight": 2.0, "margin": 0.5},
    {"instruction": "i", "input": "x", "history": [["q", "a"]], "chosen": "a", "rejected": "b"},
    {"conversations": [{"from": "human", "value": "q"}], "chosen": {"from": "gpt", "value": "a"}, "rejected": {"from": "gpt", "value": "b"}, "tools": []},
    {"prompt": "p", "nodes": [{"text": "a"}, {"text": "b", "parent": -1, "score": 0.5, "token_ids": [1, 2]}], "edges": [{"chosen": 0, "rejected": 1}], "id": "t"},
]  # fmt: skip


@cases(1500)
@given(st.lists(st.tuples(st.sampled_from(PAIRS), CHANGES), min_size=1, max_size=3))
def test_every_odd_record_is_a_tree_or_kept_with_its_reason(folder, odd):
    path = folder / "odd.jsonl"
    records = [PAIRS[0], *(changed(pair, changes) for pair, changes in odd)]
    path.write_bytes(b"\n".join(as_json(record) for record in records))
    with contextlib.suppress(AlignError):
        items = [item for _, item in locate_trees(path)]
        assert len(items) == len(records)
        assert not isinstance(items[0], Rejected)
        assert all(item.reason for item in items if isinstance(item, Rejected))


@cases(600)
@given(st.sampled_from(["damaged.jsonl", "damaged.json", "damaged.jsonl.gz"]), EDITS)
def test_data_of_damaged_bytes_is_read_or_refused(folder, name, edits):
    import gzip

    content = b"\n".join(map(as_json, PAIRS)) if "jsonl" in name else as_json(PAIRS)
    (folder / name).write_bytes(edited(gzip.compress(content, mtime=0) if name.endswith(".gz") else content, edits))
    with contextlib.suppress(AlignError):
        for _, item in locate_trees(folder / name):
            assert not isinstance(item, Rejected) or item.reason


@cases(700)
@given(st.lists(st.tuples(st.sampled_from(PAIRS), CHANGES), min_size=1, max_size=3), EDITS | st.none())
def test_prompts_are_read_or_kept_with_their_reason(folder, odd, edits):
    path = folder / "prompts.jsonl"
    content = b"\n".join(as_json(changed(pair, changes)) for pair, changes in [(PAIRS[0], []), *odd])
    path.write_bytes(content if edits is None else edited(content, edits))
    with contextlib.suppress(AlignError):
        prompts, rejected = read_prompts(str(path))
        assert prompts
        assert all(one.reason for one in rejected)


# What models write

PARTS = [
    "```python\n", "```", "def f(x):\n", "    return x\n", "class A:", "\\boxed{", "}", "The answer is ", "####", "**", "$", "\\frac{1}{2}", "5", "1,000", "\n\n", "\x00",
    "\ud800", "'''", '"""', "lambda", "(", "[", "f'{", "\t", "\\", "٣", "½", "<think>", "</think>", "input()", "if __name__ == '__main__':\n", "9" * 5000, "(" * 300,
]  # fmt: skip
RESPONSES = st.lists(st.sampled_from(PARTS) | st.text(st.characters(), max_size=6), max_size=12).map("".join)
PROBLEMS = [
    Problem("p", "write f", "def f(x):\n", Assertions("assert f(1) == 1", "f"), "f"),
    Problem("q", "read and write", "", Outputs((("1", "1"),))),
]  # fmt: skip


@cases(900)
@given(RESPONSES, st.sampled_from(PROBLEMS), st.booleans())
def test_a_program_is_found_in_any_response(response, problem, chat):
    assert isinstance(program_of(response, problem, chat), str)


TASKS = [load_task(name) for name in ("gsm8k", "math", "game24", "hotpotqa", "fever")]


@cases(900)
@given(RESPONSES, st.sampled_from(TASKS), st.sampled_from(["stop", "length"]))
def test_an_answer_is_read_from_any_response(response, task, finish_reason):
    for answer in (task.stated_answer(response), task.chat_answer(response, finish_reason)):
        assert answer is None or isinstance(answer, str)


# Checkpoints

STATES = {
    "trainer_state.json": {"global_step": 1},
    "distribution.json": {"processes": 1, "sharding": "none", "step_trees": 2, "step_rows": None},
}


@cases(250)
@given(st.sampled_from(sorted(STATES)), EDITS | CHANGES)
@example("distribution.json", [("insert", 0, 0, b"[" * 5000)])
def test_checkpoints_that_are_damaged_are_passed_over(folder, file, damage):
    path = folder / "checkpoints" / "checkpoint-1"
    path.mkdir(parents=True, exist_ok=True)
    for name, content in STATES.items():
        (path / name).write_bytes(as_json(content))
    (path / file).write_bytes(damaged((path / file).read_bytes(), damage))
    with contextlib.suppress(AlignError):
        newest_to_resume(path.parent)
    with contextlib.suppress(AlignError):
        check_resume(path, Distribution(1, "none", 2))
