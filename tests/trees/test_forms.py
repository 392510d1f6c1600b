"""Preference sets as they are found: every form is read right, kept aside with a reason, or refused with its columns named."""

import gzip
import json

import pytest
from conftest import SHARED
from datasets import Dataset, DatasetDict
from preference_forms import ASKED, BAD, BOT, CALL, GOOD, PAIR, READ, REFUSED, TOOL, UNUSABLE, Q

from align.errors import AlignError
from align.trees import ColumnsError, check_source, read_trees, tree_from_pair, tree_of

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
    "responses that begin with the prompt": ({"topic": "apples", "chosen": f"{Q} {GOOD}", "rejected": f"{Q} {BAD}"}, {"prompt": None}, Q),
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


def test_a_record_with_an_empty_place_for_images_is_text():
    assert tree_of({"prompt": Q, "images": [], "image": None, **PAIR}).prompt == Q


def test_numbers_beyond_floats_are_no_traceback():
    assert tree_of({"prompt": Q, **PAIR, "score_chosen": 10**400}).nodes[0].score is None
    for name in ("weight", "margin"):
        with pytest.raises(AlignError, match=f"{name} is inf"):
            tree_of({"prompt": Q, **PAIR, name: 10**400})


def test_a_question_that_the_user_repeats_in_both_answers_stays_in_them():
    answers = [[BOT(text), *ASKED, BOT("I said so.")] for text in (GOOD, BAD)]
    tree = tree_of({"prompt": ASKED, "chosen": answers[0], "rejected": answers[1]})
    assert (tree.prompt, [node.text for node in tree.nodes]) == (ASKED, answers)


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


LINE = json.dumps({"prompt": Q, **PAIR}).encode()
ODD = json.dumps({"prompt": "a\u2028b\x85c", **PAIR}, ensure_ascii=False).encode()
MARK = b"\xef\xbb\xbf"

# name: (file, content, usable, unusable)
FILES = {
    "byte order mark": ("a.jsonl", MARK + LINE + b"\n" + LINE, 2, 0),
    "byte order mark, list": ("a.json", MARK + b"[" + LINE + b"]", 1, 0),
    "Windows line ends": ("a.jsonl", LINE + b"\r\n" + LINE + b"\r\n", 2, 0),
    "line separators of Unicode in texts": ("a.jsonl", ODD + b"\n" + ODD, 2, 0),
    "line separators of Unicode in texts of a .json": ("a.json", ODD + b"\n" + ODD, 2, 0),
    "bytes that are no UTF-8": ("a.jsonl", LINE + b"\n" + LINE.replace(b"apples", b"\xffpples"), 1, 1),
    "bytes that are no UTF-8 in a column that is not read": ("a.jsonl", LINE[:-1] + b', "source": "\xff"}', 1, 0),
    "UTF-16": ("a.jsonl", LINE.decode().encode("utf-16"), 1, 0),
    "UTF-16 without a mark": ("a.jsonl", (LINE.decode() + "\n" + LINE.decode()).encode("utf-16-le"), 2, 0),
    "UTF-16, CSV as Excel writes it": ("a.csv", "prompt\tchosen\trejected\nWie viele?\tsiebzehn\tfünf\n".encode("utf-16"), 1, 0),
    "UTF-32": ("a.json", (b"[" + LINE + b"]").decode().encode("utf-32"), 1, 0),
    "a list in a .jsonl": ("a.jsonl", MARK + b"[\n" + LINE + b",\n" + LINE + b"\n]\n", 2, 0),
    "a list of a line each": ("a.jsonl", b"[" + LINE + b"]\n[" + LINE + b"]\n" + LINE, 1, 2),
    "gzip without the name of it": ("a.jsonl", gzip.compress(LINE, mtime=0), 1, 0),
    "columns of lists": ("a.json", json.dumps({"prompt": [Q, Q], "chosen": ["a", "b"], "rejected": ["c", "d"]}).encode(), 2, 0),
    "columns as pandas writes them": (
        "a.json",
        json.dumps({"prompt": {"0": Q, "1": Q}, "chosen": {"0": "a", "1": "b"}, "rejected": {"0": "c", "1": "d"}}).encode(),
        2,
        0,
    ),
    "comma after a line": ("a.jsonl", LINE + b",\n" + LINE, 1, 1),
    "an integer of 5,000 digits": ("a.jsonl", LINE + b"\n" + LINE[:-1] + b', "n": ' + b"1" * 5000 + b"}", 1, 1),
    "a list 100,000 deep": ("a.jsonl", LINE + b"\n" + b"[" * 100_000, 1, 1),
    "lines that are no objects": ("a.jsonl", LINE + b'\n5\nnull\n"a"\n[]\n\n \n', 1, 4),
    "gzip": ("a.jsonl.gz", gzip.compress(MARK + LINE + b"\n" + LINE, mtime=0), 2, 0),
    "gzip, list": ("a.json.gz", gzip.compress(b"[" + LINE + b"]", mtime=0), 1, 0),
    "another name for JSONL": ("a.ndjson", LINE, 1, 0),
    "capitals": ("a.JSONL", LINE, 1, 0),
    "CSV": ("a.csv", b'prompt,chosen,rejected\nHow many?,17,"five, or\nsix"\nHow many?,17,\n', 1, 1),
    "CSV, texts": ("a.csv", b'prompt,chosen,rejected\nHow many?,seventeen,"five, or\nsix"\nHow many?,17,\n', 1, 1),
    "CSV with semicolons": ("a.csv", MARK + b"prompt;chosen;rejected\r\nHow many?;17, of course;5\r\n", 1, 0),
    "CSV that names its separator": ("a.csv", b"sep=|\nprompt|chosen|rejected\nHow many?|17|5\n", 1, 0),
    "CSV with an index": ("a.csv", b",prompt, chosen,rejected\n0,How many?,17,5\n\n1,How many?,NA,None\n", 2, 0),
    "CSV with rows of other lengths": ("a.csv", b"prompt,chosen,rejected\nHow, many?,17,5\nHow many?,17\nHow many?,17,5,,\n", 1, 2),
    "CSV with a quote that does not close": ("a.csv", b'prompt,chosen,rejected\nHow many?,17,5\nHow many?,"17,5\n', 1, 1),
    "CSV with messages": (
        "a.csv",
        b"chosen,rejected\n"
        + b",".join(
            b'"' + str([{"role": "user", "content": "Hi"}, {"role": "assistant", "content": text}]).encode() + b'"'
            for text in ("Hello", "No")
        ),
        1,
        0,
    ),
    "CSV of Latin-1": ("a.csv", "prompt,chosen,rejected\nWie?,gr\u00fcn,rot\nWie?,blau,rot\n".encode("latin-1"), 1, 1),
    "CSV with weights": (
        "a.csv",
        b"prompt,chosen,rejected,weight,margin,id\nHow many?,17,5,2,,\nHow many?,17,6,,0.5,a\nHow?,1,2,x,,\n",
        2,
        1,
    ),
    "tabs and quotes of the text": ("a.tsv", b'prompt\tchosen\trejected\nHow many?\t"Five," he said.\tsix\n', 1, 0),
    "tabs": ("a.tsv", b"prompt\tchosen\trejected\nHow many?\tseventeen\tfive, or six\n", 1, 0),
}


@pytest.mark.parametrize("name", FILES)
def test_files_as_they_are_found(name, tmp_path):
    file, content, usable, unusable = FILES[name]
    (tmp_path / file).write_bytes(content)
    trees, rejected = read_trees(tmp_path / file)
    assert (len(trees), len(rejected)) == (usable, unusable)
    assert all(item.reason for item in rejected)


@pytest.mark.parametrize(
    ("file", "content", "said"),
    [
        ("a.jsonl", b"", "there is no record in it"),
        ("a.json", b"[]", "there is no record in it"),
        ("a.jsonl.gz", b"{}", "no whole gzip file"),
        ("a.jsonl.gz", gzip.compress(LINE, mtime=0)[:-9], "no whole gzip file"),
        ("a.jsonl", b"PAR1 and no more", "a Parquet file"),
        ("a.csv", b"PK\x03\x04 and more", "a zip archive or a workbook"),
        ("a.csv", b"prompt,prompt\na,b", "two columns have the name 'prompt'"),
        ("a.jsonl", LINE.decode().encode("utf-16")[:-3] + b"\xd8", "UTF-16.* text and is damaged"),
        ("a.parquet", b"PAR1 and no more", "ArrowInvalid"),
    ],
)  # fmt: skip
def test_files_that_cannot_be_read_are_said_in_one_sentence(file, content, said, tmp_path):
    (tmp_path / file).write_bytes(content)
    with pytest.raises(AlignError, match=said):
        check_source(tmp_path / file)


def test_data_sets_on_disk_are_read(tmp_path):
    rows = Dataset.from_list([{"prompt": Q, **PAIR}] * 2)
    rows.save_to_disk(str(tmp_path / "one"))
    DatasetDict({"train": rows, "test": rows.select([0])}).save_to_disk(str(tmp_path / "several"))
    (arrow,) = (tmp_path / "one").glob("*.arrow")
    assert [len(read_trees(path)[0]) for path in (tmp_path / "one", tmp_path / "several", arrow)] == [2, 2, 2]
    assert len(read_trees(tmp_path / "several", "test")[0]) == 1
