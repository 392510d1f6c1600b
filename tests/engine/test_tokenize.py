"""Seams: nodes concatenate to the tokenization of the whole text, and the response starts where tokens part."""

import pytest
from conftest import byte_level_tokenizer, metaspace_tokenizer
from hypothesis import given, settings
from hypothesis import strategies as st

from align.engine import TokenTree
from align.engine.tokenize import common_prefix, tokenize_tree, tokenize_trees, truncate
from align.errors import AlignError
from align.trees import Edge, Node, PreferenceTree

TOKENIZERS = {"byte level": byte_level_tokenizer(), "byte level, bos": byte_level_tokenizer(bos=True), "metaspace": metaspace_tokenizer()}
STEPS = PreferenceTree(
    "Question: how many apples are left?",
    (
        Node(" First we look"),
        Node(" Then"),
        Node(" at it. So the", 0),
        Node(" answer is 1", 2, complete=True),
        Node(" answer is 17, of course.", 2, complete=True),
    ),
    (Edge(0, 1), Edge(3, 4)),
)


def path_ids(tree, node):
    return (path_ids(tree, tree.parents[node]) if tree.parents[node] >= 0 else []) + list(tree.tokens[node])


@pytest.mark.parametrize("name", TOKENIZERS)
@pytest.mark.parametrize("prompt", [STEPS.prompt, STEPS.prompt + " ", "Answer: 1", ""])
def test_paths_are_the_tokenization_of_their_text(name, prompt):
    tok = TOKENIZERS[name]
    tree = tokenize_tree(PreferenceTree(prompt, STEPS.nodes, STEPS.edges), tok)
    for node, path in ((4, [0, 2, 3]), (5, [0, 2, 4])):
        text = prompt + "".join(STEPS.nodes[i].text for i in path) + tok.eos_token
        assert path_ids(tree, node) == tok(text)["input_ids"]
    assert path_ids(tree, 2) == tok(prompt + " Then")["input_ids"]


@pytest.mark.parametrize("name", TOKENIZERS)
def test_pairs_are_tokenized_as_trl_does(name, tmp_path):
    """Exact ids, against trl's own preparation: one BOS, EOS on both sides, split where the sequences part."""
    from conftest import random_model
    from datasets import Dataset
    from trl import DPOConfig, DPOTrainer

    tok = TOKENIZERS[name]
    user, answer = lambda t: [{"role": "user", "content": t}], lambda t: [{"role": "assistant", "content": t}]
    rows = [
        {"prompt": "What is the", "chosen": " sum of two?", "rejected": "sum"},
        {"prompt": "Answer: 1", "chosen": "7 apples", "rejected": " left"},
    ]
    for conversational in (False, True) if tok.chat_template else (False,):
        data = rows
        if conversational:
            data = [{"prompt": user(r["prompt"]), "chosen": answer(r["chosen"]), "rejected": answer(r["rejected"])} for r in rows]
        args = DPOConfig(output_dir=str(tmp_path), use_cpu=True, bf16=False, report_to="none")
        prepared = DPOTrainer(
            random_model(), random_model(), args, train_dataset=Dataset.from_list(data), processing_class=tok
        ).train_dataset
        for row, expected in zip(data, prepared, strict=True):
            tree = tokenize_tree(PreferenceTree(row["prompt"], (Node(row["chosen"]), Node(row["rejected"])), (Edge(0, 1),)), tok)
            assert [list(run) for run in tree.tokens] == [expected["prompt_ids"], expected["chosen_ids"], expected["rejected_ids"]]


def test_sampled_token_ids_are_kept(tokenizer):
    odd = tokenizer("Fi")["input_ids"] + tokenizer("rst")["input_ids"]  # not how the text would be tokenized
    tree = PreferenceTree("Q:", (Node("First", token_ids=tuple(odd)), Node("So", token_ids=(7,))), (Edge(0, 1),))
    assert tokenize_tree(tree, tokenizer).tokens[1:] == [[*odd, tokenizer.eos_token_id], [7, tokenizer.eos_token_id]]


def test_token_ids_on_some_nodes_only_are_refused(tokenizer):
    with pytest.raises(AlignError, match="give all or none"):
        tokenize_tree(PreferenceTree("Q:", (Node("a", token_ids=(5,)), Node("b"))), tokenizer)


def test_messages_without_a_template_are_refused():
    with pytest.raises(AlignError, match="no chat template"):
        tokenize_tree(PreferenceTree([{"role": "user", "content": "Hi"}], (Node("a"),)), TOKENIZERS["metaspace"])


def test_padding_token_as_end_token_still_trains_the_end():
    tok = byte_level_tokenizer()
    tok.pad_token = tok.eos_token
    tree = tokenize_tree(PreferenceTree("Q:", (Node("a"), Node("b")), (Edge(0, 1),)), tok)
    assert tree.tokens[1][-1] == tok.eos_token_id


TREE = TokenTree([[1] * 6, [2] * 4, [3] * 2], [-1, 0, 0], [(1, 2)], [1.0], [0.0])


def test_truncation_cuts_ends_and_never_a_whole_node():
    assert [len(run) for run in truncate(TREE, 8).tokens] == [6, 2, 2]
    with pytest.raises(AlignError, match="`prompt` has 6 tokens"):
        truncate(TREE, 6)
    deep = TokenTree([[1] * 3, [2] * 3, [3], [4], [5]], [-1, 0, 0, 1, 1], [(1, 2), (3, 4)], [1.0] * 2, [0.0] * 2)
    with pytest.raises(AlignError, match="would be cut whole"):
        truncate(deep, 6)


def test_keep_end_cuts_both_sides_at_the_same_token():
    assert [len(run) for run in truncate(TREE, 8, "keep_end").tokens] == [4, 4, 2]
    assert [len(run) for run in truncate(TREE, 3, "keep_end").tokens] == [0, 3, 2]


# Many at once

TEXT = st.text("ab \n", min_size=1, max_size=12)


@given(st.lists(st.tuples(TEXT, TEXT, TEXT, st.booleans()), min_size=1, max_size=12))
@settings(deadline=None, max_examples=40)
def test_trees_are_tokenized_together_as_each_by_itself(rows):
    tokenizer = TOKENIZERS["byte level"]
    trees = [
        PreferenceTree([{"role": "user", "content": prompt}] if chat else prompt, (Node(a), Node(b)), (Edge(0, 1),))
        for prompt, a, b, chat in rows
    ]
    mixed = PreferenceTree("p", (Node("a", token_ids=(5,)), Node("b")), (Edge(0, 1),))
    together = tokenize_trees([*trees, mixed], tokenizer)
    assert isinstance(together.pop(), AlignError)
    for tree, tokens in zip(trees, together, strict=True):
        if isinstance(tokens, AlignError):
            with pytest.raises(AlignError, match="has no token of its own"):
                tokenize_tree(tree, tokenizer)
        else:
            assert tokens == tokenize_tree(tree, tokenizer)


@given(st.lists(st.integers(0, 1), max_size=30), st.lists(st.integers(0, 1), max_size=30), st.integers(0, 30))
def test_common_prefix_is_the_longest(one, other, shared):
    other = one[:shared] + other
    length = common_prefix(one, other)
    assert one[:length] == other[:length]
    assert length == min(len(one), len(other)) or one[length] != other[length]
