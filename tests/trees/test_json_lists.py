"""Lists in JSON files are read item by item, and are the lists that the json module reads."""

import gzip
import io
import json

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from align.trees import json_lists, read_records
from align.trees.json_lists import is_list, items

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner, max_size=4),
    max_leaves=12,
)


@settings(deadline=None, max_examples=40, suppress_health_check=[HealthCheck.too_slow])  # on a machine that does other things, too
@given(st.lists(VALUES, max_size=6), st.integers(1, 40), st.sampled_from([None, 1]), st.booleans())
def test_items_are_those_of_the_list_however_it_is_cut(values, chunk, indent, escaped):
    text = json.dumps(values, indent=indent, ensure_ascii=escaped)
    before, json_lists._CHUNK = json_lists._CHUNK, chunk
    try:
        assert list(items(io.StringIO(text))) == values
        assert is_list(io.StringIO(f" \n{text}\n"))
        for end in range(1, len(text)):
            assert not is_list(io.StringIO(text[:end]))
    finally:
        json_lists._CHUNK = before


@pytest.mark.parametrize(
    "text", ["", "{}", '{"a": [1]}', "[1] [2]", "[1]\n[2]", "[1,]", "[,1]", "[1 2]", "[10, 20}xxxx]", "1", "nul", "[" * 100_000]
)
def test_other_texts_are_no_list(text):
    assert not is_list(io.StringIO(text))


@settings(deadline=None, max_examples=60)
@given(st.lists(VALUES, min_size=1, max_size=4), st.integers(1, 40), st.text('[]{},: \n\t"x7', min_size=1, max_size=3), st.data())
def test_a_text_is_a_list_where_the_json_module_says_so(values, chunk, inserted, data):
    text = json.dumps(values)
    position = data.draw(st.integers(0, len(text)))
    text = text[:position] + inserted + text[position:]
    try:
        expected = isinstance(json.loads(text), list)
    except ValueError:
        expected = False
    before, json_lists._CHUNK = json_lists._CHUNK, chunk
    try:
        assert is_list(io.StringIO(text)) == expected
    finally:
        json_lists._CHUNK = before


@pytest.mark.parametrize("packed", [False, True])
def test_a_list_and_an_object_that_holds_one_are_read_alike(packed, tmp_path):
    rows = [{"prompt": f"p{n} ü😀", "chosen": "a", "rejected": "b"} for n in range(50)]
    for name, content in (("list", rows), ("object", {"version": 1, "data": rows})):
        path = tmp_path / f"{name}.json{'.gz' if packed else ''}"
        with (gzip.open if packed else open)(path, "wt", encoding="utf-8-sig") as out:
            json.dump(content, out, ensure_ascii=False)
        assert list(read_records(path)) == [(f"{path} row {n}", row) for n, row in enumerate(rows)]
