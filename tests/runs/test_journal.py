"""Journals: whatever a crash leaves of the last write, what was written before is read back whole."""

import pytest

from align.errors import AlignError
from align.runs import Journal, Shard, read_journal
from align.runs.journal import own_batches


class Unit:
    def __init__(self, id):
        self.id = id


RECORDS = [(f"p{i}", {"text": "ü" * i + '"\n', "logp": -0.1 * i, "none": None}) for i in range(5)]


def test_what_is_appended_is_read_back(tmp_path):
    journal = Journal(tmp_path)
    journal.append(RECORDS[:3])
    journal.append(RECORDS[3:])
    assert read_journal(tmp_path) == dict(RECORDS)


def test_a_write_torn_at_any_byte_costs_only_what_was_torn(tmp_path):
    journal = Journal(tmp_path)
    journal.append(RECORDS[:2])
    whole = journal.path.stat().st_size
    journal.append(RECORDS[2:3])
    content = journal.path.read_bytes()
    for size in range(whole, len(content)):
        journal.path.write_bytes(content[:size])
        assert read_journal(tmp_path) == dict(RECORDS[:2])
        again = Journal(tmp_path)
        again.append(RECORDS[2:3])
        assert journal.path.read_bytes() == content


@pytest.mark.parametrize("place", range(5, 60, 9))
def test_a_flipped_byte_is_noticed_and_the_rest_kept(tmp_path, place, caplog):
    journal = Journal(tmp_path)
    journal.append(RECORDS)
    content = bytearray(journal.path.read_bytes())
    content[place] ^= 1
    journal.path.write_bytes(bytes(content))
    assert read_journal(tmp_path) == dict(RECORDS[1:])
    again = Journal(tmp_path)
    assert "1 damaged line(s) set aside" in caplog.text
    again.append(RECORDS[:1])
    assert read_journal(tmp_path) == dict(RECORDS)
    assert journal.path.with_suffix(".damaged").exists()


def test_a_full_disk_is_one_sentence_and_loses_nothing(tmp_path):
    Journal(tmp_path, Shard(0, 2)).append(RECORDS[:2])
    full = Journal(tmp_path, Shard(1, 2))
    full.close()
    full.path.unlink()
    full.path.symlink_to("/dev/full")  # the kernel's own full disk
    full._file = full.path.open("ab", buffering=0)
    with pytest.raises(AlignError, match=r"No space left on device. What was finished before is kept"):
        full.append(RECORDS[2:])
    (tmp_path / "part-00001-of-00002.jsonl").unlink()
    assert read_journal(tmp_path) == dict(RECORDS[:2])


def test_batches_do_not_depend_on_shards_or_on_what_is_done():
    units = [Unit(str(i)) for i in range(23)]
    alone = [[u.id for u in batch] for batch in own_batches(units, 4, set(), Shard())]
    shared = [[u.id for u in batch] for index in range(3) for batch in own_batches(units, 4, set(), Shard(index, 3))]
    assert sorted(alone) == sorted(shared)
    later = [[u.id for u in batch] for batch in own_batches(units, 4, {"0", "1", "2", "3", "5", "22"}, Shard())]
    assert later == alone[1:]


@pytest.mark.parametrize("text", ["3", "3/", "4/4", "-1/4", "a/b"])
def test_a_wrong_shard_is_refused(text):
    with pytest.raises(AlignError, match="expected INDEX/COUNT"):
        Shard.parse(text)
