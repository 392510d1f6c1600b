"""A stream of trees gives the same losses over one rank and two: each tree is dealt once, by tokens, and none is repeated at the end."""

import json

import pytest
import spread

from align.trainers.batches import DealtStream


@pytest.mark.parametrize("ranks", [1, 2, 3])
@pytest.mark.parametrize("drop_last", [False, True])
def test_each_example_is_dealt_once(ranks, drop_last):
    sizes = [9, 1, 1, 1, 5, 5, 2, 2, 7]
    count = 6 // ranks
    hands = [list(DealtStream(range(9), sizes.__getitem__, count, rank, ranks, drop_last)) for rank in range(ranks)]
    rounds = list(zip(*hands, strict=True))
    assert [sorted(i for hand in one for i in hand) for one in rounds] == [[0, 1, 2, 3, 4, 5], [6, 7, 8]][: 1 if drop_last else 2]
    if ranks == 2:
        assert [sum(sizes[i] for i in hand) for hand in rounds[0]] == [11, 11]


@pytest.mark.slow
@pytest.mark.xdist_group("distributed")
def test_two_ranks_train_on_a_stream_as_one_does(tmp_path):
    spread.write_inputs(tmp_path)
    logged = {
        ranks: json.loads(spread.run_script("streamed.py", ranks, tmp_path, tmp_path / str(ranks)).splitlines()[-1]) for ranks in (1, 2)
    }
    assert len(logged[1]["losses"]) == 14  # the 37 trees once, and 16 of them again
    for name in ("losses", "margins", "eval"):
        assert logged[2][name] == pytest.approx(logged[1][name], abs=1e-4), name
