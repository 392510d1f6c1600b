"""Data through the trainer: the same forms as everywhere, what is left out kept, every record rendered with its own keys."""

import json
import logging
import math

import pytest
from conftest import SHARED, byte_level_tokenizer, random_model
from datasets import Dataset, Features, IterableDataset, Value
from preference_forms import ASKED, BAD, CALL, GOOD, PAIR, READ, REFUSED, TOOL, UNUSABLE, Q

from align.engine.tokenize import tokenize_tree
from align.errors import AlignError
from align.trainers import PreferenceConfig, PreferenceTrainer
from align.trainers.collator import token_tree
from align.trainers.data import Preparation, as_dataset
from align.trees import Edge, Node, PreferenceTree, read_trees, to_record, tree_dataset, tree_of, write_trees

SPARE = [{"prompt": f"What of {n}?", "chosen": "It is five.", "rejected": "It is six, of course."} for n in range(4)]


def trainer(settings, tokenizer, data, **changes):
    extra = {"eval_dataset": changes.pop("eval_dataset")} if "eval_dataset" in changes else {}
    args = PreferenceConfig(**{**settings, "learning_rate": 1e-3, "logging_steps": 1, **changes})
    return PreferenceTrainer(random_model(), random_model(seed=1), args, train_dataset=data, processing_class=tokenizer, **extra)


class Prepared:
    """What the trainer makes of a data set, without a model."""

    def __init__(self, settings, tokenizer, data, **changes):
        args = PreferenceConfig(**{**settings, **changes})
        self.train_dataset = Preparation(tokenizer, args, "train")(as_dataset(data))


def losses(trained):
    return [entry["loss"] for entry in trained.state.log_history if "loss" in entry]


def kept_aside(settings, name="train"):
    return [json.loads(line) for line in open(f"{settings['output_dir']}/rejected-{name}.jsonl", encoding="utf-8")]


def same_tokens(trained, trees, tokenizer):
    """Whether the trainer's data set holds the tokens of these trees."""
    found = [token_tree(example) for example in trained.train_dataset]
    expected = [tokenize_tree(tree, tokenizer) for tree in trees]
    return [[list(map(list, tree.tokens)), tree.weights, tree.margins] for tree in found] == [
        [list(map(list, tree.tokens)), tree.weights, tree.margins] for tree in expected
    ]


# Forms


@pytest.mark.parametrize("name", READ)
def test_form_is_tokenized_as_the_tree_that_it_is_read_as(name, settings, tokenizer):
    record, _ = READ[name]
    assert same_tokens(Prepared(settings, tokenizer, Dataset.from_list([record] * 2)), [tree_of(record)] * 2, tokenizer)


@pytest.mark.slow
@pytest.mark.parametrize("name", READ)
def test_form_trains(name, settings, tokenizer):
    record, _ = READ[name]
    trained = trainer(settings, tokenizer, Dataset.from_list([record] * 2), max_steps=1)
    trained.train()
    assert math.isfinite(losses(trained)[0])


@pytest.mark.parametrize("name", [name for name in UNUSABLE if name != "half a character"])  # which Arrow does not hold
def test_set_without_a_usable_record_stops_with_its_reason(name, settings, tokenizer):
    record, reason = UNUSABLE[name]
    with pytest.raises(AlignError, match=reason):
        Prepared(settings, tokenizer, Dataset.from_list([record]))


@pytest.mark.parametrize("name", REFUSED)
def test_columns_of_no_form_are_refused(name, settings, tokenizer):
    record, named = REFUSED[name]
    with pytest.raises(AlignError, match=named):
        Prepared(settings, tokenizer, Dataset.from_list([record] * 30))


def test_shared_cases(settings, tokenizer):
    cases = SHARED / "cases" / "data_forms.jsonl"
    if not cases.exists():
        pytest.skip("the shared cases (../shared/cases/data_forms.jsonl) are not here")
    for case in map(json.loads, cases.read_text().splitlines()):
        data = Dataset.from_list([case["record"]])
        if case["expect"] == "read":
            pair = {"prompt": case["prompt"], "chosen": case["chosen"], "rejected": case["rejected"]}
            pair |= {name: case["record"][name] for name in ("weight", "margin") if name in case["record"]}
            assert same_tokens(Prepared(settings, tokenizer, data), [tree_of(pair)], tokenizer), case["name"]
        else:
            with pytest.raises(AlignError):
                Prepared(settings, tokenizer, data)


def test_lists_of_records_are_data_sets(settings, tokenizer):
    rows = [SPARE[0], {**SPARE[1], "weight": 2.0}, {**SPARE[2], "rejected": None}]
    assert same_tokens(Prepared(settings, tokenizer, rows), [tree_of(row) for row in rows[:2]], tokenizer)
    assert kept_aside(settings)[0]["where"] == "train data set, record 2"
    tools = with_tools()
    assert rendered(Prepared(settings, tools, TOOL_ROWS), tools) == expected(TOOL_ROWS, tools)
    mixed = [FINE, tree_of(SPARE[0])]
    assert same_tokens(Prepared(settings, tokenizer, mixed), [tree_of(FINE), tree_of(SPARE[0])], tokenizer)


@pytest.mark.parametrize(
    ("data", "said"),
    [
        ([], "is empty"), (Dataset.from_dict({"prompt": []}), "is empty"), (IterableDataset.from_generator(list), "is empty"),
        ([SPARE[0], "text"], "record 1 is str"), ([SPARE[0], {"prompt": ASKED, **PAIR}], "do not fit into one table"),
    ],
)  # fmt: skip
def test_what_is_no_data_set_is_said_in_one_sentence(data, said, settings, tokenizer):
    with pytest.raises(AlignError, match=said):
        Prepared(settings, tokenizer, data)


@pytest.mark.parametrize("form", ["numpy", "torch", "pandas"])
@pytest.mark.parametrize("stream", [False, True])
def test_data_sets_that_give_arrays_are_read_as_others(form, stream, settings, tokenizer):
    data = Dataset.from_list([FINE] * 2).with_format(form)
    assert same_tokens(Prepared(settings, tokenizer, data.to_iterable_dataset() if stream else data), [tree_of(FINE)] * 2, tokenizer)


def test_records_that_a_transform_makes_are_read(settings, tokenizer):
    def pairs(rows):
        return {"prompt": rows["q"], "chosen": [GOOD] * len(rows["q"]), "rejected": [BAD] * len(rows["q"])}

    data = Dataset.from_list([{"q": f"What of {n}?"} for n in range(3)]).with_transform(pairs)
    expected = [tree_of({"prompt": f"What of {n}?", "chosen": GOOD, "rejected": BAD}) for n in range(3)]
    assert same_tokens(Prepared(settings, tokenizer, data), expected, tokenizer)


def test_unusable_records_are_kept_whole(settings, tokenizer, caplog):
    rows = [*SPARE, {"prompt": Q, "chosen": GOOD, "rejected": None}, {"prompt": None, "chosen": "4", "rejected": "5"}]
    with caplog.at_level(logging.WARNING):
        assert len(Prepared(settings, tokenizer, Dataset.from_list(rows)).train_dataset) == len(SPARE)
    kept = kept_aside(settings)
    assert [(item["where"], item["record"].get("prompt")) for item in kept] == [
        ("train data set, record 4", Q),
        ("train data set, record 5", None),
    ]
    assert "2 of 6 records cannot be used" in caplog.text


def test_columns_are_mapped(settings, tokenizer):
    rows = [{"ask": row["prompt"], "good": row["chosen"], "bad": row["rejected"]} for row in SPARE]
    columns = {"prompt": "ask", "chosen": "good", "rejected": "bad"}
    made = trainer(settings, tokenizer, Dataset.from_list(rows), columns=columns, eval_dataset=Dataset.from_list(rows))
    assert same_tokens(made, [tree_of(row) for row in SPARE], tokenizer)
    assert len(made.eval_dataset) == len(SPARE)
    with pytest.raises(AlignError, match=r"columns.prompt is 'aks'.*did you mean 'ask'"):
        trainer(settings, tokenizer, Dataset.from_list(rows), columns={**columns, "prompt": "aks"})
    with pytest.raises(ValueError, match=r"columns.promt: .*did you mean 'prompt'"):
        PreferenceConfig(**settings, columns={"promt": "ask"})


def test_trees_with_messages_that_are_none_are_kept_aside(settings, tokenizer):
    nodes, edge = (Node("a"), Node("b")), (Edge(0, 1),)
    wrong = [PreferenceTree([{"role": "user", "content": content}], nodes, edge) for content in (None, 5)]
    assert len(Prepared(settings, tokenizer, [*MIXED[:1], *wrong]).train_dataset) == 1
    assert ["is null" in item["reason"] or "is int" in item["reason"] for item in kept_aside(settings)] == [True, True]


def test_a_tree_without_an_edge_is_kept_aside(settings, tokenizer):
    assert len(Prepared(settings, tokenizer, [MIXED[0], PreferenceTree("p", (Node("a"),))]).train_dataset) == 1
    assert "has no edge" in kept_aside(settings)[0]["reason"]


@pytest.mark.slow
def test_several_processes_read_what_one_reads(settings, tokenizer):
    data = Dataset.from_list([*SPARE, {"prompt": "", "chosen": "a", "rejected": "b"}])
    one, two = (Prepared(settings, tokenizer, data, dataset_num_proc=number).train_dataset for number in (None, 2))
    assert list(one) == list(two)


# Weights, margins, equal responses


@pytest.mark.slow
def test_weight_and_margin_of_pairs_count_as_those_of_trees(settings, tokenizer):
    rows = [{**row, "weight": 1.0 + n, "margin": n / 4} for n, row in enumerate(SPARE)]
    found = []
    for data in (Dataset.from_list(rows), [tree_of(row) for row in rows], Dataset.from_list(SPARE)):
        made = trainer(settings, tokenizer, data, per_device_train_batch_size=2, max_steps=2)
        made.train()
        found.append(losses(made))
    assert found[0] == pytest.approx(found[1], rel=1e-6)
    assert found[0] != pytest.approx(found[2], rel=1e-3)


def test_margin_that_no_loss_reads_is_said_before_training(settings, tokenizer):
    rows = [{**row, "margin": 0.5} for row in SPARE]
    with pytest.raises(AlignError, match="has a `margin`, which none of the losses"):
        trainer(settings, tokenizer, Dataset.from_list(rows), loss_type=["ipo"])
    trainer(settings, tokenizer, Dataset.from_list(rows), loss_type=["ipo"], columns={"margin": None})


def test_pairs_that_are_equal_after_truncation_are_kept_aside(settings, tokenizer):
    same = {"prompt": "Count", "chosen": " five" * 40 + " well", "rejected": " five" * 40 + " wrong"}
    assert len(Prepared(settings, tokenizer, Dataset.from_list([*SPARE, same]), max_length=40).train_dataset) == 4
    assert "the same tokens after truncation to `max_length` 40" in kept_aside(settings)[0]["reason"]
    assert len(Prepared(settings, tokenizer, Dataset.from_list([*SPARE, same])).train_dataset) == 5


def test_pairs_that_differ_in_what_the_template_strips_are_kept_aside(settings):
    stripping = byte_level_tokenizer()
    stripping.chat_template = stripping.chat_template.replace("m['content']", "m['content'] | trim")
    rows = [
        {"prompt": ASKED, "chosen": [{"role": "assistant", "content": GOOD}], "rejected": [{"role": "assistant", "content": text}]}
        for text in (BAD, GOOD + "\n")
    ]
    assert len(Prepared(settings, stripping, Dataset.from_list(rows)).train_dataset) == 1
    assert kept_aside(settings)[0]["reason"] == "`chosen` and `rejected` are the same tokens"


def test_equal_edges_of_a_tree_go_and_the_others_train(settings, tokenizer, caplog):
    tree = PreferenceTree("Count", (Node(" five" * 40), Node(" five" * 40 + "!"), Node(" six")), (Edge(0, 1), Edge(0, 2, weight=2.0)))
    with caplog.at_level(logging.WARNING):
        made = Prepared(settings, tokenizer, [tree], max_length=30)
    assert "1 edges of the train data set join two equal responses" in caplog.text
    assert (made.train_dataset[0]["edges"], made.train_dataset[0]["edge_weights"]) == ([[1, 3]], [2.0])


# Templates that refuse

STRICT = (
    "{% for m in messages %}{% if m['role'] == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}"
    "{% if (m['role'] == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('Roles must alternate') }}{% endif %}"
    "<|im_start|>{{ m['role'] }}\n{{ m['content'] + '' }}<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def strict():
    made = byte_level_tokenizer()
    made.chat_template = STRICT
    return made


RAISING = [
    {"prompt": [{"role": "system", "content": "Be brief."}, *ASKED], "chosen": [{"role": "assistant", "content": GOOD}], "rejected": [{"role": "assistant", "content": BAD}]},
    {"prompt": [*ASKED, *ASKED], "chosen": [{"role": "assistant", "content": GOOD}], "rejected": [{"role": "assistant", "content": BAD}]},
]  # fmt: skip
FINE = {"prompt": ASKED, "chosen": [{"role": "assistant", "content": GOOD}], "rejected": [{"role": "assistant", "content": BAD}]}


@pytest.mark.slow
@pytest.mark.parametrize("made_of", ["pairs", "trees", "stream"])
def test_a_record_that_the_template_refuses_is_kept_aside_with_what_it_says(made_of, settings):
    rows = [FINE, *RAISING, FINE]
    data = {
        "pairs": lambda: Dataset.from_list(rows),
        "trees": lambda: [tree_of(row) for row in rows],
        "stream": lambda: Dataset.from_list(rows).to_iterable_dataset(),
    }[made_of]()
    made = trainer({**settings, "monitor_3d": True, "monitor_max_new_tokens": 4}, strict(), data, max_steps=2)
    made.train()
    assert all(map(math.isfinite, losses(made)))
    reasons = [item["reason"] for item in kept_aside(settings)]
    assert ["System role not supported" in reasons[0], "Roles must alternate" in reasons[1], len(reasons)] == [True, True, 2]


# Tools

WITH_TOOLS = (
    "{% if tools %}{{ tools | tojson }}\n{% endif %}{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}"
    "{% for c in m.tool_calls or [] %}{{ c | tojson }}{% endfor %}<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def with_tools():
    made = byte_level_tokenizer()
    made.chat_template = WITH_TOOLS
    return made


def call(name, **arguments):
    return [{"role": "assistant", "content": "", "tool_calls": [{"type": "function", "function": {"name": name, "arguments": arguments}}]}]


def schema(name, **properties):
    return {"type": "function", "function": {"name": name, "parameters": {"type": "object", "properties": properties}}}


TEXT, NUMBER = {"type": "string"}, {"type": "number"}
TOOL_ROWS = [
    {"prompt": ASKED, "chosen": call("weather", city="Rome"), "rejected": FINE["rejected"], "tools": [schema("weather", city=TEXT)]},
    {"prompt": ASKED, "chosen": call("add", x=1, y=[2, 3]), "rejected": FINE["rejected"], "tools": [schema("add", x=NUMBER, y={"type": "array", "items": NUMBER})]},
    {"prompt": ASKED, "chosen": call("find", where={"name": "Ann", "near": {"city": "Oslo"}}), "rejected": call("find", where={"age": 7}), "tools": [schema("find", where={"type": "object"}), schema("weather", city=TEXT)]},
    {"prompt": ASKED, "chosen": FINE["chosen"], "rejected": call("now"), "tools": [{**schema("now"), "strict": True}]},
    {"prompt": ASKED, "chosen": FINE["chosen"], "rejected": FINE["rejected"]},
]  # fmt: skip
UNIFIED = [{**row, "tools": row.get("tools")} for row in TOOL_ROWS]


def rendered(trained, tokenizer):
    return [[tokenizer.decode(run) for run in token_tree(example).tokens] for example in trained.train_dataset]


def expected(rows, tokenizer):
    return [[tokenizer.decode(run) for run in tokenize_tree(tree_of(row), tokenizer).tokens] for row in rows]


@pytest.mark.parametrize("made_of", ["data set", "stream", "JSON text", "trees", "JSONL", "Parquet", "Parquet of pairs"])
def test_every_record_is_rendered_with_its_own_keys(made_of, settings, tmp_path):
    tok = with_tools()
    trees = [tree_of(row) for row in TOOL_ROWS]
    if made_of == "JSONL":
        write_trees(trees, tmp_path / "trees.jsonl")
        data, _ = read_trees(tmp_path / "trees.jsonl")
    elif made_of == "Parquet":
        write_trees(trees, tmp_path / "trees.parquet")
        data, _ = read_trees(tmp_path / "trees.parquet")
    elif made_of == "Parquet of pairs":
        Dataset.from_list(UNIFIED).to_parquet(str(tmp_path / "pairs.parquet"))
        data, _ = read_trees(tmp_path / "pairs.parquet")
    else:
        data = {
            "data set": lambda: Dataset.from_list(UNIFIED),
            "stream": lambda: Dataset.from_list(UNIFIED).to_iterable_dataset(),
            "JSON text": lambda: Dataset.from_list(
                [{**row, "tools": json.dumps(row["tools"]) if row.get("tools") else None} for row in TOOL_ROWS]
            ),
            "trees": lambda: trees,
        }[made_of]()
    shown = rendered(Prepared(settings, tok, data), tok)
    assert shown == expected(TOOL_ROWS, tok)
    assert "null" not in str(shown)
    assert "Rome" not in str(shown[1:])


def test_shared_tools(settings):
    cases = SHARED / "cases" / "tools.jsonl"
    if not cases.exists():
        pytest.skip("the shared cases (../shared/cases/tools.jsonl) are not here")
    rows = [json.loads(line) for line in cases.read_text().splitlines()]
    forbidden = [row.pop("rendered_must_not_contain") for row in rows]
    tok = with_tools()
    for data in (Dataset.from_list(rows), [tree_of(row) for row in rows], Dataset.from_list(rows).to_iterable_dataset()):
        for runs, words in zip(rendered(Prepared(settings, tok, data), tok), forbidden, strict=True):
            assert not [word for word in words if word in "".join(runs)]


def test_nulls_that_were_written_stay_where_they_travel_as_text(settings):
    tok = with_tools()
    row = {**TOOL_ROWS[0], "tools": [schema("weather", city={**TEXT, "default": None})]}
    for data in ([tree_of(row)], Dataset.from_list([{**row, "tools": json.dumps(row["tools"])}])):
        assert '"default": null' in rendered(Prepared(settings, tok, data), tok)[0][0]


def test_template_options_are_each_records_own(settings):
    tok = byte_level_tokenizer()
    tok.chat_template = (
        "{% if thinking is defined %}think {{ thinking }}{% endif %}{% if depth is defined %}depth {{ depth }}{% endif %}"
        + tok.chat_template
    )
    rows = [
        {**FINE, "chat_template_kwargs": {"thinking": True}},
        {**FINE, "chat_template_kwargs": {"depth": 3}},
        {**FINE, "chat_template_kwargs": None},
    ]
    shown = [runs[0] for runs in rendered(Prepared(settings, tok, Dataset.from_list(rows)), tok)]
    assert [("think" in text, "depth" in text) for text in shown] == [(True, False), (False, True), (False, False)]


# Mixtures

MIXED = [
    tree_of({"prompt": "What of it?", **PAIR, "id": 1}),
    PreferenceTree("Steps: ", (Node("first ", score=1), Node("no ", token_ids=None, metadata={"votes": 3})), (Edge(0, 1, 2.0, 0.5),)),
    PreferenceTree(ASKED, (Node("17", token_ids=(24, 21)), Node("5", token_ids=(28,))), (Edge(0, 1),), prompt_token_ids=(5, 6, 7), metadata={"search": ["a", 1]}),
    tree_of({"prompt": ASKED, "chosen": [CALL, {"role": "tool", "content": "17"}, {"role": "assistant", "content": GOOD}], "rejected": BAD, "tools": [TOOL]}),
    PreferenceTree(ASKED, (Node("a "), Node("b "), Node("c", 0, complete=True), Node("d", 0, complete=True)), (Edge(0, 1), Edge(2, 3)), metadata={"search": "b", "n": None}),
]  # fmt: skip


@pytest.mark.parametrize("order", [1, -1])
@pytest.mark.parametrize("form", ["data set", "JSONL", "Parquet", "Parquet through datasets", "JSONL through the trainer's rows"])
def test_a_mixture_of_all_kinds_survives(form, order, tmp_path):
    trees = MIXED[::order]
    if form == "data set":
        read = [tree_of(row) for row in tree_dataset(trees)]
    elif form == "Parquet through datasets":
        write_trees(trees, tmp_path / "trees.parquet")
        read = [tree_of(row) for row in Dataset.from_parquet(str(tmp_path / "trees.parquet"), cache_dir=str(tmp_path))]
    elif form == "JSONL through the trainer's rows":
        read = [tree_of(json.loads(json.dumps(row))) for row in tree_dataset(trees)]
    else:
        path = tmp_path / ("trees.jsonl" if form == "JSONL" else "trees.parquet")
        write_trees(trees, path)
        read, rejected = read_trees(path)
        assert not rejected
    assert [to_record(tree) for tree in read] == [to_record(tree) for tree in trees]


def test_a_mixture_trains_with_the_tokens_of_each(settings, tokenizer):
    made = trainer({**settings, "monitor_3d": True, "monitor_max_new_tokens": 4}, tokenizer, MIXED, num_train_epochs=1)
    assert same_tokens(made, MIXED, tokenizer)
    made.train()
    assert all(map(math.isfinite, losses(made)))


def test_sampled_token_ids_are_trained_whatever_stands_beside_them(settings, tokenizer):
    made = Prepared(settings, tokenizer, MIXED)
    assert made.train_dataset[2]["node_ids"] == [[5, 6, 7], [24, 21, tokenizer.eos_token_id], [28, tokenizer.eos_token_id]]


# Streams


def stream_of(rows):
    features = Features({"prompt": Value("string"), "chosen": Value("string"), "rejected": Value("string")})
    return Dataset.from_list(rows, features=features).to_iterable_dataset()


def test_streams_count_and_keep_what_they_leave_out(settings, tokenizer, caplog):
    bad = [{"prompt": "", "chosen": "a", "rejected": "b"}, {"prompt": "p", "chosen": None, "rejected": "b"}]
    with caplog.at_level(logging.WARNING):
        made = trainer(settings, tokenizer, stream_of([*SPARE[:2], *bad, *SPARE[2:]]), max_steps=3, per_device_train_batch_size=2)
        made.train()
    kept = kept_aside(settings)
    assert [item["where"] for item in kept] == ["train data set, record 2", "train data set, record 3"]
    assert [item["record"] for item in kept] == bad
    assert "1 of the 3 records of the train data set read so far cannot be used" in caplog.text
    assert "2 of the 6 records of the train data set read so far cannot be used" in caplog.text
    assert len(list(made.train_dataset)) == len(SPARE)
    assert len(kept_aside(settings)) == 2  # a further pass begins the file anew


def test_a_stream_of_which_too_much_cannot_be_used_stops(settings, tokenizer):
    rows = [SPARE[n % 4] if n % 4 else {"prompt": "", "chosen": "a", "rejected": "b"} for n in range(400)]
    made = trainer(settings, tokenizer, stream_of(rows), max_steps=400, max_rejected_share=0.3)
    assert len(list(made.train_dataset)) == 300
    made = trainer(settings, tokenizer, stream_of(rows), max_steps=400, max_rejected_share=0.2)
    with pytest.raises(
        AlignError, match=r"record 0: `prompt` is empty .* \(25 of the 100 records|25 of the 100 records .* the limit is 20%"
    ):
        list(made.train_dataset)


def test_a_stream_without_a_usable_record_stops_with_its_reason(settings, tokenizer):
    with pytest.raises(AlignError, match=r"record 0: `prompt` is empty.* no record is left"):
        Prepared(settings, tokenizer, stream_of([{"prompt": "", "chosen": "a", "rejected": "b"}] * 3))


def test_a_stream_of_no_form_is_refused_at_once(settings, tokenizer):
    rows = [{"q": Q, "good": GOOD, "bad": BAD}] * 3
    with pytest.raises(AlignError, match="there are bad, good, q"):
        trainer(settings, tokenizer, Dataset.from_list(rows).to_iterable_dataset(), max_steps=1)
    columns = {"prompt": "q", "chosen": "good", "rejected": "bad"}
    trainer(settings, tokenizer, Dataset.from_list(rows).to_iterable_dataset(), max_steps=1, columns=columns).train()


@pytest.mark.parametrize("rows", [[FINE] * 2, TOOL_ROWS], ids=["messages", "tools"])
@pytest.mark.slow
def test_a_stream_of_python_objects_trains(rows, settings):
    made = trainer(settings, with_tools(), IterableDataset.from_generator(lambda: iter(rows)), max_steps=1)
    assert rendered(made, with_tools()) == expected(rows, with_tools())
    made.train()
    assert math.isfinite(losses(made)[0])


# Against trl

ON_TRL = ["text", "messages", "messages, several turns", "messages, system", "implicit text", "implicit messages", "implicit messages, several turns", "text of a transcript", "greeting, whole conversations", "message prompt that ends with another answer"]  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("name", ON_TRL)
def test_forms_that_trl_reads_have_its_tokens_and_its_loss(name, settings, tokenizer):
    from trl import DPOConfig, DPOTrainer

    record, _ = READ[name]
    rows = Dataset.from_list([record] * 2)
    ours = trainer(settings, tokenizer, rows, max_steps=1)
    known = {key: value for key, value in settings.items() if key != "monitor_3d"}
    theirs = DPOTrainer(
        random_model(), random_model(seed=1), DPOConfig(**known, learning_rate=1e-3, logging_steps=1, max_steps=1),
        train_dataset=rows, processing_class=tokenizer,
    )  # fmt: skip
    columns = ("prompt_ids", "chosen_ids", "rejected_ids")
    assert [[row[c] for c in columns] for row in ours.train_dataset] == [[row[c] for c in columns] for row in theirs.train_dataset]
    for one in (ours, theirs):
        one.train()
    assert losses(ours) == pytest.approx(losses(theirs), rel=1e-5)
