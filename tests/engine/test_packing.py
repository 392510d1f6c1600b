"""Random trees: how they are laid out, what backends read of it, and what comes out, against one sequence at a time."""

import random

import pytest
import torch
import varlen_by_hand
from conftest import random_model
from hypothesis import given, settings
from hypothesis import strategies as st

from align.engine import TokenTree, install, pack, packing, tree_scores
from align.engine.attention import plans, tree_attention, tree_mask

MORE = settings(deadline=None, max_examples=25)
VOCAB = 60


@st.composite
def token_trees(draw, nodes=30, longest=12, depth=6):
    """One to a few trees: empty prompts, single tokens, up to `depth` levels, prompts that begin alike or not."""
    seed = draw(st.integers(0, 2**32))
    rng = random.Random(seed)
    common = [rng.randrange(1, VOCAB) for _ in range(draw(st.sampled_from([0, 3, 40, 90])))]
    trees = []
    for _ in range(draw(st.integers(1, 4))):
        count = draw(st.integers(3, nodes))
        keep = draw(st.sampled_from([0, len(common) // 2, len(common)]))
        prompt = common[:keep] + [rng.randrange(1, VOCAB) for _ in range(draw(st.sampled_from([0, 0, 1, 5, 40])))]
        runs, parents, levels = [prompt], [-1], [0]
        while len(runs) < count:
            above = rng.choice([n for n in range(len(runs)) if levels[n] < depth])
            runs.append([rng.randrange(1, VOCAB) for _ in range(rng.choice([1, 1, rng.randint(2, longest)]))])
            parents.append(above)
            levels.append(levels[above] + 1)
        edges = [(rng.randrange(1, count), rng.randrange(1, count)) for _ in range(rng.randint(1, count))]
        trees.append(TokenTree(runs, parents, edges, [1.0] * len(edges), [0.0] * len(edges)))
    return trees


def path_of(tree, node):
    above = path_of(tree, tree.parents[node]) if tree.parents[node] >= 0 else []
    return [*above, *tree.tokens[node]]


def scored_nodes(tree):
    return sorted({node for edge in tree.edges for node in edge})


@MORE
@given(token_trees())
def test_every_scored_token_is_found_with_its_path(trees):
    """By a walk through the row: each token's ancestors spell its path, at its positions, and its predictor is the token before it."""
    batch = pack(trees)
    mask, ids, positions = tree_mask(batch.layout), batch.input_ids[0], batch.position_ids[0]
    for tree, (start, end) in zip(trees, batch.token_slices, strict=True):
        found = {}
        for token in range(start, end):
            predictor = int(batch.predictors[token])
            seen = mask[predictor].nonzero()[:, 0]
            assert positions[seen].tolist() == list(range(len(seen)))
            context = tuple(ids[seen].tolist())
            found.setdefault(int(batch.token_node[token]), []).append((context, int(batch.labels[token])))
        expected = []
        for node in scored_nodes(tree):
            path = path_of(tree, node)
            first = max(1, len(path) - len(tree.tokens[node]))
            expected.append([(tuple(path[:i]), path[i]) for i in range(first, len(path))])
        assert sorted(found.values()) == sorted(part for part in expected if part)


@MORE
@given(token_trees())
def test_prompts_that_begin_alike_stand_in_the_row_once(trees):
    batch = pack(trees)
    alone = sum(pack([tree]).layout.used for tree in trees)
    assert batch.layout.used <= alone
    prompts = [tree.tokens[0] for tree in trees]
    if len(prompts) > 1 and all(prompt == prompts[0] for prompt in prompts):
        assert batch.layout.used == alone - (len(prompts) - 1) * len(prompts[0])


def test_four_few_shot_trees_share_their_prompt():
    few_shot, rng = list(range(1000)), random.Random(0)
    trees = []
    for number in range(4):
        runs = [few_shot + [2000 + number] * 10, *([rng.randrange(3000, 4000) for _ in range(30)] for _ in range(30))]
        parents = [-1, *[0] * 10, *[1] * 10, *[11] * 10]
        trees.append(TokenTree(runs, parents, [(1, 2), (11, 12), (21, 22)], [1.0] * 3, [0.0] * 3))
    assert pack(trees).layout.used == 1000 + 4 * (10 + 6 * 30)


def test_too_few_common_tokens_are_not_shared():
    def tree(prompt):
        return TokenTree([prompt, [7], [8]], [-1, 0, 0], [(1, 2)], [1.0], [0.0])

    common = [5] * (packing.SHARED_TOKENS - 1)
    assert pack([tree([*common, 1]), tree([*common, 2])]).layout.used == 2 * (len(common) + 3)
    assert pack([tree([*common, 6, 1]), tree([*common, 6, 2])]).layout.used == len(common) + 1 + 2 * 3
    assert pack([tree([1]), tree([1])]).layout.used == 1 + 2 * 2  # the same prompt is always shared


@MORE
@given(token_trees(), st.sampled_from([None, 256, 700]))
def test_padding_counts_nowhere(trees, length):
    plain, padded = pack(trees), pack(trees, row_length=lambda used: max(used, length or used))
    assert padded.layout.used == plain.layout.used
    for name in ("predictors", "labels", "token_node", "node_lengths", "chosen", "rejected", "counts"):
        assert torch.equal(getattr(plain, name), getattr(padded, name)), name
    assert not padded.multiplicity[plain.layout.used :].any()


@MORE
@given(token_trees(), st.sampled_from([None, 5, 30]))
def test_plans_are_what_a_walk_over_the_row_finds(trees, window):
    layout = pack(trees, row_length=lambda used: -(-used // 128) * 128).layout
    length = layout.length
    mask = tree_mask(layout)
    levels = plans.levels(layout)
    seen = torch.zeros(length, length, dtype=torch.int)
    for a, b in zip(levels.own.query_bounds[:-1].tolist(), levels.own.query_bounds[1:].tolist(), strict=True):
        seen[a:b, a:b] += torch.ones(b - a, b - a, dtype=torch.int).tril()
    for level in levels.below:
        runs = zip(*(level.runs.query_bounds[i:j].tolist() for i, j in ((None, -1), (1, None))), strict=True)
        keys = zip(*(level.runs.key_bounds[i:j].tolist() for i, j in ((None, -1), (1, None))), strict=True)
        for (a, b), (c, d) in zip(runs, keys, strict=True):
            seen[level.queries[a:b][:, None], level.keys[c:d][None]] += 1
    assert torch.equal(seen, mask.int())  # every pair once
    paths = plans.paths(layout)
    for span, c, d in zip(layout.spans, paths.runs.key_bounds[:-1].tolist(), paths.runs.key_bounds[1:].tolist(), strict=True):
        assert torch.equal(paths.keys[c:d], mask[span.end - 1].nonzero()[:, 0])
    check_blocks(plans.blocks(layout, window), tree_mask(layout, window))


def check_blocks(blocks, mask):
    """Full blocks hold nothing but true, and what is in no block nothing but false."""
    count = mask.shape[0] // plans.BLOCK
    kinds = torch.zeros(count, count, dtype=torch.int)
    for number, (counts, indices) in enumerate(
        [(blocks.kv_num_blocks, blocks.kv_indices), (blocks.full_kv_num_blocks, blocks.full_kv_indices)], start=1
    ):
        for row in range(count):
            kinds[row, indices[0, 0, row, : counts[0, 0, row]].long()] += number
    transposed = torch.zeros(count, count, dtype=torch.int)
    for number, (counts, indices) in enumerate(
        [(blocks.q_num_blocks, blocks.q_indices), (blocks.full_q_num_blocks, blocks.full_q_indices)], start=1
    ):
        for column in range(count):
            transposed[indices[0, 0, column, : counts[0, 0, column]].long(), column] += number
    assert torch.equal(kinds, transposed)
    tiles = mask.view(count, plans.BLOCK, count, plans.BLOCK).permute(0, 2, 1, 3)
    assert tiles[kinds == 2].all()
    assert not tiles[kinds == 0].any()


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["cascade", "gather"])
@settings(deadline=None, max_examples=10)
@given(trees=token_trees(), window=st.sampled_from([None, 6]))
def test_the_calls_of_flash_kernels_give_what_the_dense_mask_gives(backend, trees, window):
    layout = pack(trees).layout
    generator = torch.Generator().manual_seed(0)
    draw = [torch.randn(1, heads, layout.length, 8, generator=generator, dtype=torch.float64) for heads in (4, 2, 2, 4)]
    results = []
    for name in (backend, "dense"):
        with pytest.MonkeyPatch.context() as patch:
            if name != "dense":
                varlen_by_hand.use(patch)
            q, k, v = (x.clone().requires_grad_() for x in draw[:3])
            out = tree_attention(name, q, k, v, layout, 0.3, window)
            results.append([out, *torch.autograd.grad(out, (q, k, v), draw[3])])
    for got, expected in zip(*results, strict=True):
        torch.testing.assert_close(got, expected, rtol=1e-9, atol=1e-9)


@pytest.fixture(scope="module")
def model():
    return random_model("qwen3").double()


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["cascade", "gather", "dense"])
@settings(deadline=None, max_examples=5)
@given(trees=token_trees(nodes=12))
def test_log_probs_and_gradients_are_those_of_one_sequence_at_a_time(model, backend, trees):
    install(model, backend)
    batch = pack(trees)
    model.zero_grad()
    logps = tree_scores(model, batch, backend).logps
    logps.sum().backward()
    gradients = [parameter.grad.clone() for parameter in model.parameters()]
    model.zero_grad()
    total = 0.0
    for tree in trees:
        for node in scored_nodes(tree):
            path = path_of(tree, node)
            own = min(len(tree.tokens[node]), len(path) - 1)
            scores = model(input_ids=torch.tensor([path]), use_cache=False).logits[0].log_softmax(-1)
            part = scores[-own - 1 : -1].gather(1, torch.tensor(path[-own:])[:, None]).sum() if own else 0.0 * scores.sum()
            part.backward()
            total += part.item()
    assert logps.sum().item() == pytest.approx(total, rel=1e-6)
    for got, parameter in zip(gradients, model.parameters(), strict=True):
        torch.testing.assert_close(got, parameter.grad, rtol=1e-4, atol=1e-5)  # the head computes in float32


def test_two_hundred_nodes_give_the_log_probs_of_their_sequences(model):
    rng = random.Random(3)
    runs, parents = [[rng.randrange(1, VOCAB) for _ in range(50)]], [-1]
    for _ in range(199):
        parents.append(rng.randrange(len(runs)))
        runs.append([rng.randrange(1, VOCAB) for _ in range(rng.choice([1, 2, 3]))])
    tree = TokenTree(runs, parents, [(n, n + 1) for n in range(1, 199)], [1.0] * 198, [0.0] * 198)
    install(model, "cascade")
    batch = pack([tree])
    with torch.no_grad():
        logps = tree_scores(model, batch, "cascade").logps
        for node in range(1, 200, 13):
            path = path_of(tree, node)
            scores = model(input_ids=torch.tensor([path]), use_cache=False).logits[0].log_softmax(-1)
            own = len(tree.tokens[node])
            expected = scores[-own - 1 : -1].gather(1, torch.tensor(path[-own:])[:, None])[:, 0]
            ends = batch.token_slices[0]
            number = next(n for n, span in enumerate(batch.node_spans) if spells(batch, span, path))
            torch.testing.assert_close(logps[ends[0] : ends[1]][batch.token_node == number], expected.to(logps.dtype), rtol=0, atol=1e-5)


def spells(batch, span, path):
    if span < 0:
        return False
    tokens = [token for part in batch.layout.path(span) for token in batch.input_ids[0, part.start : part.end].tolist()]
    return tokens == path
