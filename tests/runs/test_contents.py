"""Outputs whose content changed after their stage was done are noticed when another stage is about to read them, and not before."""

import os

import pytest
from test_damage import _toys_are_importable, copied, finished  # noqa: F401  (fixtures)
from test_runs import kinds, plan, result, run

from align.runs import RunFolder, read_journal
from align.runs.digest import PIECE, file_digest
from align.runs.folder import WrittenOutputs


def flip(path, place=10):
    """Another byte, the same size and times."""
    times = path.stat()
    content = bytearray(path.read_bytes())
    content[place] ^= 1
    path.write_bytes(bytes(content))
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))


def test_an_output_of_the_same_size_with_other_content_is_made_again_where_it_is_read(copied):  # noqa: F811
    flip(copied / "two" / "deep" / "total.json")
    changed = [*plan()[:2], plan(pause=0.001)[2]]
    assert kinds(copied, plan()) == ["done"] * 3, "nothing reads it any more"
    assert kinds(copied, changed) == ["done", "done", "run"], "a look at the run reads no content"
    _, said = run(copied, changed)
    assert any("does not hold what was written to it: it is made again" in line for line in said)
    assert result(copied) == 285


@pytest.mark.slow
def test_a_journal_with_a_flipped_byte_is_mended_and_filled_up(copied):  # noqa: F811
    (path,) = (copied / "one" / "units").glob("part-*.jsonl")
    whole = read_journal(copied / "one" / "units")
    flip(path, path.stat().st_size // 2)
    run(copied, plan(times=3))
    assert read_journal(copied / "one" / "units") == whole
    assert result(copied) == 3 * 285


def test_what_was_read_is_not_read_again_until_it_is_touched(copied, monkeypatch):  # noqa: F811
    read = []
    monkeypatch.setattr("align.runs.folder.file_digest", lambda path: read.append(path.name) or file_digest(path))
    outputs = WrittenOutputs(RunFolder(copied))
    assert outputs.altered("two/deep", "total.json") == outputs.altered("two/deep", "total.json") == ""
    assert read == ["total.json"]
    path = copied / "two" / "deep" / "total.json"
    path.write_bytes(path.read_bytes())
    assert outputs.altered("two/deep", "total.json") == ""
    assert read == ["total.json"] * 2


@pytest.mark.slow
@pytest.mark.parametrize("size", [0, 1, PIECE, PIECE + 1, 3 * PIECE])
def test_every_byte_of_a_file_counts_in_its_digest(tmp_path, size):
    path = tmp_path / "weights"
    path.write_bytes(os.urandom(1) * size)
    digest = file_digest(path)
    for place in {0, size // 2, size - 1} if size else ():
        flip(path, place)
        assert file_digest(path) != digest
        flip(path, place)
    assert file_digest(path) == digest
    with open(path, "ab") as more:
        more.write(b"x")
    assert file_digest(path) != digest
