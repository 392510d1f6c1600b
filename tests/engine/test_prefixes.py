"""The tree of prefixes: it gives back what was put in, within its budget; and the plan of what is read once."""

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from align.engine.prefixes import PrefixTree, shared_prefixes

SEQUENCES = st.lists(st.lists(st.integers(0, 2), min_size=1, max_size=12).map(tuple), min_size=1, max_size=25)
BYTES = 2 * 2 * 1 * 1 * 4  # of a token's states below


def states_of(tokens, start=0):
    """Keys and values that tell the whole prefix of each token: `[2 layers, 2, 1, tokens, 1]`."""
    values = [hash(tokens[: i + 1]) % 1_000_003 for i in range(start, len(tokens))]
    return torch.tensor(values, dtype=torch.float32).view(1, 1, 1, -1, 1).expand(2, 2, 1, -1, 1)


def matched(tree, tokens):
    pieces = tree.match(tokens)
    return torch.cat(pieces, -2) if pieces else torch.empty(2, 2, 1, 0, 1)


@given(SEQUENCES, st.sampled_from([0, 1, 5, 20, 60, 300]))
@settings(max_examples=150, deadline=None)
def test_what_is_known_of_a_sequence_is_what_was_read_of_it(sequences, budget):
    tree = PrefixTree(budget * BYTES)
    for tokens in sequences:
        start = matched(tree, tokens).shape[-2]
        tree.insert(tokens, start, states_of(tokens, start))
        assert tree.bytes <= budget * BYTES
        known = matched(tree, tokens)
        assert torch.equal(known, states_of(tokens)[..., : known.shape[-2], :])
        assert tree.bytes == BYTES * sum(len(node.tokens) for node in tree._nodes())
    for tokens in sequences:
        known = matched(tree, tokens)
        assert torch.equal(known, states_of(tokens)[..., : known.shape[-2], :])
        assert budget < 300 or known.shape[-2] == len(tokens)


def test_the_leaf_that_was_used_longest_ago_goes_first():
    tree = PrefixTree(10 * BYTES)
    for tokens in ((1, 1, 1, 1, 2, 2), (1, 1, 1, 1, 3, 3)):
        tree.insert(tokens, 0, states_of(tokens))
    tree.match((1, 1, 1, 1, 2, 2))
    tree.insert((4, 4, 4), 0, states_of((4, 4, 4)))
    assert [matched(tree, tokens).shape[-2] for tokens in ((1, 1, 1, 1, 2, 2), (1, 1, 1, 1, 3, 3), (4, 4, 4))] == [6, 4, 3]
    tree.clear()
    assert (tree.bytes, tree.match((1, 1))) == (0, [])


def test_states_behind_something_unknown_are_not_kept():
    tree = PrefixTree(1000)
    tree.insert((1, 2, 3), 2, states_of((1, 2, 3), 2))
    assert tree.bytes == 0


@given(SEQUENCES)
@settings(max_examples=150, deadline=None)
def test_a_prefix_that_is_read_apart_is_shared_and_comes_after_those_it_contains(sequences):
    read = set()
    for prefixes in shared_prefixes(sequences, 3):
        for prefix in prefixes:
            assert sum(tokens[: len(prefix)] == prefix for tokens in set(sequences)) >= 2
            assert prefix not in read
        read |= set(prefixes)
    few_shots, rest = (7,) * 50, [(1, 2), (1, 3), (4,)]
    assert shared_prefixes([few_shots + end for end in rest], 3) == [[few_shots]]
    assert shared_prefixes([few_shots + (1,) * 9 + end for end in rest] + [few_shots], 3)[0] == [few_shots]
