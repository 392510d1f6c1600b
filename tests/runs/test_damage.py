"""Files of a run that were cut, emptied or altered after they were written: said in a sentence, put aside, and what they stood for made anew."""

import json
from pathlib import Path

import pytest
from test_runs import HERE, kinds, plan, result, run

from align.runs import Journal, RunFolder, Stage, assess, read_journal

RUINED = {
    "empty": lambda content: b"",
    "cut": lambda content: content[: len(content) // 2],
    "zeros": lambda content: bytes(len(content)),
    "another type": lambda content: b"[]",
    "a number": lambda content: b"7",
    "nothing in it": lambda content: b"{}",
    "a key less": lambda content: json.dumps({key: value for key, value in json.loads(content).items() if key != "key"}).encode(),
    "a key of another type": lambda content: json.dumps({**json.loads(content), "key": ["a"]}).encode(),
    "no UTF-8": lambda content: content[:5] + b"\xff\xfe" + content[5:],
    "too deep": lambda content: b"[" * 100_000,
    "two of them": lambda content: content + content,
}

OFTEN = ("empty", "cut", "a key less")


@pytest.fixture(autouse=True)
def _toys_are_importable(monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(HERE))


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A run in which nothing is wrong."""
    folder = tmp_path_factory.mktemp("finished")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(HERE))
        run(folder, plan())
    return folder


@pytest.fixture
def copied(finished, tmp_path):
    import shutil

    shutil.copytree(finished, tmp_path / "run")
    return tmp_path / "run"


def ruin(path: Path, how: str) -> None:
    path.write_bytes(RUINED[how](path.read_bytes()))


@pytest.mark.parametrize("how", [how if how in OFTEN else pytest.param(how, marks=pytest.mark.slow) for how in RUINED])
def test_a_damaged_manifest_is_put_aside_and_the_stage_looked_at_anew(copied, how):
    path = copied / "two" / "deep" / "manifest.json"
    ruin(path, how)
    assert kinds(copied, plan()) == ["done", "resume", "wait"]
    assert not path.with_name("manifest.json.damaged").exists(), "looking changes nothing"
    _, said = run(copied, plan())
    assert sum(f"{path} is damaged" in line for line in said) == 1
    assert path.with_name("manifest.json.damaged").exists()
    assert (
        "three: done already" in said or "three: done before with these settings: taken back" in said or kinds(copied, plan())[2] == "done"
    )
    assert kinds(copied, plan()) == ["done"] * 3
    assert result(copied) == 285
    assert "manifest.json.damaged" not in json.loads(path.read_text())["outputs"]
    _, said = run(copied, plan())
    assert said == ["one: done already", "two/deep: done already", "three: done already"]


@pytest.mark.parametrize("how", [how if how in OFTEN else pytest.param(how, marks=pytest.mark.slow) for how in RUINED])
def test_a_damaged_specification_of_a_finished_stage_changes_nothing(copied, how):
    ruin(copied / "one" / "stage.json", how)
    _, said = run(copied, plan())
    assert said[0].startswith(f"{copied / 'one' / 'stage.json'} is damaged")
    assert [line for line in said[1:] if "done already" not in line] == []


def test_where_nothing_says_for_which_settings_a_stage_was_begun_it_begins_anew_and_what_was_there_is_kept(copied):
    before = read_journal(copied / "one" / "units")
    for name in ("manifest.json", "stage.json"):
        ruin(copied / "one" / name, "cut")
    run(copied, plan())
    assert result(copied) == 285
    (kept,) = (copied / "superseded").glob("one-unknown-*")
    assert read_journal(kept / "units") == before
    assert kinds(copied, plan()) == ["done"] * 3


@pytest.mark.parametrize("how", [how if how in OFTEN else pytest.param(how, marks=pytest.mark.slow) for how in RUINED])
def test_a_damaged_cache_of_digests_is_written_anew(tmp_path, how):
    (tmp_path / "numbers.json").write_text('{"total": 4}')
    from align.runs import External

    stages = [Stage("three", "toy_stages:whole", {}, {"total": External(str(tmp_path / "numbers.json"))})]
    run(tmp_path / "run", stages)
    ruin(tmp_path / "run" / "inputs.json", how if how not in ("a key less", "a key of another type") else "cut")
    _, said = run(tmp_path / "run", stages)
    assert said == ["three: done already"]


@pytest.mark.slow
@pytest.mark.parametrize("change", [lambda path: path.write_bytes(path.read_bytes()[:-3]), lambda path: path.write_bytes(b""), Path.unlink])
def test_an_output_that_is_not_what_was_written_is_made_again_where_it_is_read(copied, change):
    change(copied / "two" / "deep" / "total.json")
    assert kinds(copied, plan()) == ["done"] * 3, "nothing reads it any more"
    changed = [*plan()[:2], plan(pause=0.001)[2]]
    states = assess(changed, RunFolder(copied))
    assert [state.kind for state in states] == ["done", "run", "run"]
    assert states[1].reason.startswith("its output total.json ")
    run(copied, changed)
    assert result(copied) == 285


@pytest.mark.slow
def test_a_journal_that_was_cut_after_its_stage_was_done_is_filled_up_again(copied):
    (path,) = (copied / "one" / "units").glob("part-*.jsonl")
    lines = path.read_bytes().splitlines(keepends=True)
    whole = read_journal(copied / "one" / "units")
    path.write_bytes(b"".join(lines[:4]) + lines[4][:20])
    run(copied, plan(times=3))
    assert read_journal(copied / "one" / "units") == whole
    assert result(copied) == 3 * 285
    assert all(name.endswith(".jsonl") for name in json.loads((copied / "one" / "manifest.json").read_text())["outputs"])


@pytest.mark.parametrize("text", ["\ud800", "a \udfff b", "\udc80 bytes that were no UTF-8", "\x00", "\u2028", "😀"])
def test_any_text_of_a_program_or_model_can_be_journalled(tmp_path, text):
    journal = Journal(tmp_path)
    journal.append([(f"id {text}", {"text": text, text: [text]}), ("after", 1)])
    journal.close()
    assert read_journal(tmp_path) == {f"id {text}": {"text": text, text: [text]}, "after": 1}
    Journal(tmp_path).close()
    assert not list(tmp_path.glob("*.damaged"))
