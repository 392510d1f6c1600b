"""Preference sets as they are found: every form is read right, kept aside with a reason, or refused with its columns named."""

import json

import pytest
from conftest import SHARED
from preference_forms import ASKED, BAD, CALL, GOOD, PAIR, READ, REFUSED, TOOL, UNUSABLE, Q

from align.errors import AlignError
from align.trees import ColumnsError, read_trees, tree_from_pair, tree_of

CASES = SHARED / "cases" / "data_forms.jsonl"


@pytest.mark.parametrize("name", READ)
def test_form_is_read(name):
    record, prompt = READ[name]
    tree = tree_of(record)
    assert (tree.prompt, [node.text.lstrip() for node in tree.nodes]) == (prompt, [GOOD, BAD])


@pytest.mark.parametrize("name", UNUSABLE)
def test_record_is_unusable_for_a_reason(name):
    record, reason = UNUSABLE[name]
    with pytest.raises(AlignError, match=reason):
        tree_of(record)


@pytest.mark.parametrize("name", REFUSED)
def test_columns_of_no_form_are_named_with_the_way_to_map_them(name, tmp_path):
    record, named = REFUSED[name]
    path = tmp_path / "pairs.jsonl"
    path.write_text((json.dumps(record) + "\n") * 3)
    with pytest.raises(AlignError, match=named) as refused:
        read_trees(path)
    assert "data.columns" in str(refused.value)
    assert str(path) in str(refused.value)


def test_shared_cases():
    if not CASES.exists():
        pytest.skip("the shared cases (../shared/cases/data_forms.jsonl) are not here")
    for case in map(json.loads, CASES.read_text().splitlines()):
        if case["expect"] == "read":
            tree = tree_of(case["record"])
            read = (tree.prompt, tree.nodes[0].text, tree.nodes[1].text)
            assert read == (case["prompt"], case["chosen"], case["rejected"]), case["name"]
            continue
        with pytest.raises(AlignError) as error:
            tree_of(case["record"])
        assert isinstance(error.value, ColumnsError) == case["expect"].startswith("refused"), case["name"]


def test_what_can_be_read_of_a_set_is_read_and_the_rest_kept(tmp_path):
    records = [record for record, _ in (*READ.values(), *UNUSABLE.values())]
    path = tmp_path / "pairs.jsonl"
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    trees, rejected = read_trees(path)
    assert (len(trees), len(rejected)) == (len(READ), len(UNUSABLE))
    assert all(item.reason and item.where.startswith(str(path)) for item in rejected)


def test_weight_margin_scores_and_id_are_taken_over():
    tree = tree_of({"id": 12, "prompt": Q, **PAIR, "weight": 3, "margin": 0.5, "score_chosen": 8, "score_rejected": None})
    assert (tree.id, tree.edges[0].weight, tree.edges[0].margin) == ("12", 3.0, 0.5)
    assert [node.score for node in tree.nodes] == [8.0, None]


@pytest.mark.parametrize("tools", [[TOOL], json.dumps([TOOL])], ids=["list", "JSON text"])
def test_tools_and_template_options_are_taken_over(tools):
    tree = tree_of({"prompt": ASKED, "chosen": [CALL], "rejected": BAD, "tools": tools, "chat_template_kwargs": {"thinking": False}})
    assert tree.metadata == {"tools": [TOOL], "chat_template_kwargs": {"thinking": False}}
    assert tree.nodes[0].text == [CALL]


def test_content_beside_calls_may_be_null_and_other_content_may_not():
    calling = {**CALL, "content": None}
    assert tree_of({"prompt": ASKED, "chosen": [calling], "rejected": BAD}).nodes[0].text == [CALL]
    assert tree_of({"prompt": ASKED, "chosen": [{k: v for k, v in CALL.items() if k != "content"}], "rejected": BAD}).nodes[0].text == [
        CALL
    ]


def test_answers_of_several_turns_stay_messages():
    rest = [CALL, {"role": "tool", "content": "17"}, {"role": "assistant", "content": GOOD}]
    tree = tree_of(
        {"prompt": ASKED, "chosen": rest, "rejected": [CALL, {"role": "tool", "content": "5"}, {"role": "assistant", "content": BAD}]}
    )
    assert tree.nodes[0].text == rest
    whole = tree_of({"chosen": [*ASKED, *rest], "rejected": [*ASKED, {"role": "assistant", "content": BAD}]})
    assert (whole.prompt, whole.nodes[0].text, whole.nodes[1].text) == (ASKED, rest, BAD)


def test_one_conversation_that_begins_the_other_keeps_an_answer_of_its_own():
    short = [*ASKED, {"role": "assistant", "content": GOOD}]
    longer = [*short, {"role": "user", "content": "Sure?"}, {"role": "assistant", "content": "Yes."}]
    tree = tree_of({"chosen": short, "rejected": longer})
    assert (tree.prompt, tree.nodes[0].text, tree.nodes[1].text) == (ASKED, GOOD, longer[1:])
    text = tree_of({"chosen": "Q: how many? A: four", "rejected": "Q: how many? A: four or five"})
    assert (text.prompt, text.nodes[0].text, text.nodes[1].text) == ("Q: how many? A:", " four", " four or five")


COLUMNS = {
    "all three": ({"q": Q, "good": GOOD, "bad": BAD}, {"prompt": "q", "chosen": "good", "rejected": "bad"}, Q),
    "prompt alone": ({"ask": Q, **PAIR}, {"prompt": "ask"}, Q),
    "a question into the template": ({"ask": Q, **PAIR}, {"question": "ask"}, ASKED),
    "a question as plain text": ({"question": Q, **PAIR}, {"prompt": "question"}, Q),
    "answers of a known question": ({"question": Q, "response_j": GOOD, "response_k": BAD}, {"chosen": "response_j", "rejected": "response_k"}, ASKED),
    "turns": ({"trajectory": [{"from": "user", "value": Q}], **PAIR}, {"prompt": "trajectory"}, ASKED),
    "a column that is not to be read": ({"prompt": "other", "question": Q, **PAIR}, {"prompt": None}, ASKED),
    "names changed round": ({"prompt": Q, "chosen": BAD, "rejected": GOOD}, {"chosen": "rejected", "rejected": "chosen"}, Q),
    "responses that begin with the prompt": ({"topic_text": "apples", "chosen": f"{Q} {GOOD}", "rejected": f"{Q} {BAD}"}, {"prompt": None}, Q),
}  # fmt: skip


@pytest.mark.parametrize("name", COLUMNS)
def test_columns_are_mapped(name, tmp_path):
    record, columns, prompt = COLUMNS[name]
    tree = tree_from_pair(record, columns)
    assert (tree.prompt, [node.text.strip() for node in tree.nodes]) == (prompt, [GOOD, BAD])


def test_a_mapping_is_checked_on_both_sides(tmp_path):
    path = tmp_path / "pairs.jsonl"
    path.write_text(json.dumps({"q": Q, "good": GOOD, "bad": BAD}) + "\n")
    with pytest.raises(AlignError, match=r"columns.chosen is 'goood', .* did you mean 'good'"):
        read_trees(path, columns={"prompt": "q", "chosen": "goood", "rejected": "bad"})
    with pytest.raises(AlignError, match=r"columns.chosn: .* did you mean 'chosen'"):
        read_trees(path, columns={"chosn": "good"})


def test_a_mapped_column_that_not_every_record_has(tmp_path):
    rows = [{"prompt": Q, **PAIR}, {"prompt": Q, **PAIR, "times": 3}]
    path = tmp_path / "pairs.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert [tree.edges[0].weight for tree in read_trees(path, columns={"weight": "times"})[0]] == [1.0, 3.0]
    with pytest.raises(AlignError, match=r"columns.weight is 'tims'.*did you mean 'times'"):
        read_trees(path, columns={"weight": "tims"})


def test_weight_and_margin_are_mapped():
    tree = tree_from_pair({"prompt": Q, **PAIR, "times": 2, "gap": 0.25}, {"weight": "times", "margin": "gap"})
    assert (tree.edges[0].weight, tree.edges[0].margin) == (2.0, 0.25)


@pytest.mark.parametrize("wrap", [lambda rows: rows, lambda rows: {"data": rows}, lambda rows: {"version": 1, "data": rows}])
def test_a_json_list_keeps_the_types_of_every_record(wrap, tmp_path):
    path = tmp_path / "pairs.json"
    path.write_text(json.dumps(wrap([record for record, _ in READ.values()])))
    assert len(read_trees(path)[0]) == len(READ)


def test_json_lines_in_a_json_file_are_read(tmp_path):
    path = tmp_path / "pairs.json"
    path.write_text("".join(json.dumps(record) + "\n" for record, _ in READ.values()))
    assert len(read_trees(path)[0]) == len(READ)
