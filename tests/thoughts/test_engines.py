"""Searches on real engines: the same trees whatever advances together; sampled tokens are the trained ones, with trl's gradients."""

from collections import Counter

import pytest
import torch
from conftest import byte_level_tokenizer, needs_vllm, random_model
from scripted import searching, write_task

from align.errors import AlignError
from align.sampling import Sampling
from align.trees import PreferenceTree, only_trained
from data_pipelines.rollouts.protocol import Request
from data_pipelines.rollouts.transformers_engine import TransformersEngine
from data_pipelines.thought_trees.asks import together
from data_pipelines.thought_trees.edges import EdgeRules, with_step_edges
from data_pipelines.thought_trees.judges import Judgement
from data_pipelines.thought_trees.tasks import Question, load_task

NAMES = [f"{word} apples are {'very ' * i}good?" for i, word in enumerate(["Some", "No", "All", "Red", "Green", "Sour"])]


class ByLength:
    """A judge that any model can satisfy: a path is worth its tokens, modulo 7."""

    def judge(self, level):
        yield from ()
        return [Judgement(float(len(c.token_ids) % 7)) for c in level.candidates]


def easy_task(tmp_path, markers, **more):
    """Three steps that a random model finds: a thought ends at one of some letters, any word is an answer."""
    rules = {
        "steps": 3,
        "markers": list(markers),
        "next_step": ["q"],
        "end": ["zz"],
        "answer": r"(\w+)",
        "data": {"fields": {"question": "q"}},
    }
    return load_task(write_task(tmp_path, **rules, **more))


@pytest.fixture
def task(tmp_path):
    return easy_task(tmp_path, "ea")


def trees_of(engine, task, size, judge=None, **settings):
    """All searches, `size` of them together."""
    found = {}
    for start in range(0, len(NAMES), size):
        part = {
            name: searching(engine, judge or ByLength(), task, name, (), min_characters=1, **settings)
            for name in NAMES[start : start + size]
        }
        found |= dict(together(part, engine))
    assert not any(isinstance(tree, AlignError) for tree in found.values())
    return found


def one_call_at_a_time(engine):
    """The engine with every request by itself, and every sample, as the released code works."""
    from data_pipelines.rollouts.protocol import Rollout

    class Serial:
        context, batch, tokenizer, prompt_ids = engine.context, engine.batch, engine.tokenizer, staticmethod(engine.prompt_ids)

        def generate(self, requests, sampling):
            for request in requests:
                single = [Request(request.id, request.prompt, 1, request.seed + k) for k in range(request.n)]
                completions = [next(iter(engine.generate([one], sampling))).completions[0] for one in single]
                yield Rollout(request.id, tuple(request.prompt), tuple(completions))

    return Serial()


@pytest.mark.slow
@pytest.mark.parametrize("family", ["llama", "qwen2", "mistral-window"])
def test_questions_searched_together_give_the_trees_of_one_call_at_a_time(family, tmp_path, task):
    random_model(family).save_pretrained(tmp_path)
    byte_level_tokenizer().save_pretrained(tmp_path)
    engine = TransformersEngine(tmp_path, dtype="float32", batch=64)
    all_of_them = trees_of(engine, task, len(NAMES))
    assert all_of_them == trees_of(engine, task, 2) == trees_of(one_call_at_a_time(engine), task, 1)
    assert min(len(tree.nodes) for tree in all_of_them.values()) > 6
    assert trees_of(engine, task, len(NAMES), seed=1) != all_of_them


class Asking(ByLength):
    """A judge that asks the model, as self-evaluation does, behind examples of its own; a path is worth the tokens of what is said."""

    def judge(self, level):
        from data_pipelines.thought_trees.asks import Sample

        requests = tuple(
            Request(f"{level.question.id}/judge/{c.node}", (9,) * 90 + level.prompt_token_ids[-5:] + c.token_ids, 2, c.node)
            for c in level.candidates
        )
        rollouts = yield Sample(requests, Sampling(9, stop=("e",)))
        return [Judgement(float(sum(len(c.token_ids) for c in rollout.completions) % 7)) for rollout in rollouts]


@pytest.mark.slow
@pytest.mark.parametrize("family", ["llama", "gemma3", "mistral-window", "gpt2", "lfm2"])
def test_prefix_caches_change_no_tree(family, tmp_path):
    """Few-shot prompts of 80 tokens and a judge with a prompt of its own: plain generation gives the same trees; lfm2 falls back to it."""
    random_model(family).save_pretrained(tmp_path)
    byte_level_tokenizer().save_pretrained(tmp_path)
    task = easy_task(tmp_path, "ea", instruction="What is the sum of two and three? It is five, of course. " * 4)
    cached, plain = (TransformersEngine(tmp_path, dtype="float32", batch=32, reading=reading) for reading in ("prefixes", "plain"))
    expected = trees_of(plain, task, len(NAMES), Asking())
    assert trees_of(cached, task, len(NAMES), Asking()) == trees_of(cached, task, 2, Asking()) == expected
    assert min(len(tree.nodes) for tree in expected.values()) > 6


def test_a_search_reads_its_few_shot_prompt_once_and_forgets_it_at_its_end(tmp_path):
    random_model().save_pretrained(tmp_path)
    byte_level_tokenizer().save_pretrained(tmp_path)
    engine = TransformersEngine(tmp_path, dtype="float32")
    reader, read = engine._sampler.reader, []
    forward = reader.forward

    def counted(ids, context, cache):
        read.append(int((context.positions >= 0).sum()) if ids.shape[1] > 1 else 0)
        return forward(ids, context, cache)

    reader.forward = counted
    task = easy_task(tmp_path, "ea", instruction="What is the sum of two and three? It is five, of course. " * 4)
    prompts = [len(engine.prompt_ids(task.prompt(Question(name, {"question": name})))) for name in NAMES]
    trees = trees_of(engine, task, len(NAMES))
    assert sum(len(tree.nodes) for tree in trees.values()) > 40
    assert max(prompts) < sum(read) < max(prompts) + len(NAMES) * 40
    assert engine._sampler.tree.bytes == 0


def test_the_tokens_of_a_path_are_those_that_the_model_was_given(tmp_path):
    """A path's tokens, prompt first, are what its thoughts were sampled from: at temperature 0 they come out again."""
    random_model().save_pretrained(tmp_path)
    byte_level_tokenizer().save_pretrained(tmp_path)
    engine = TransformersEngine(tmp_path, dtype="float32")
    task, width = easy_task(tmp_path, "abcdefghijklmnoprstuvwxy "), {"thoughts": 1, "keep": 1, "keep_at_most": 1, "min_characters": 1}
    searches = {name: searching(engine, ByLength(), task, name, (), Sampling(30, temperature=0.0), **width) for name in NAMES}
    trees = [tree for _, tree in together(searches, engine) if isinstance(tree, PreferenceTree)]  # greedy, some never come to a marker
    assert len(trees) >= 2
    for tree in trees:
        ids = tuple(token for node in tree.nodes for token in node.token_ids)
        request = Request("all", tree.prompt_token_ids)
        (rollout,) = engine.generate([request], Sampling(len(ids), temperature=0.0))
        assert rollout.completions[0].token_ids[: len(ids)] == ids


@pytest.mark.slow
@pytest.mark.xdist_group("vllm")
@needs_vllm
def test_on_vllm_nearly_all_thoughts_are_the_same_whatever_advances_together(base_engine, task):
    whole, single = trees_of(base_engine, task, len(NAMES)), trees_of(one_call_at_a_time(base_engine), task, 1)
    same = total = 0
    for name in NAMES:
        paths = [Counter(tuple(tokens(tree, node)) for node in range(len(tree.nodes))) for tree in (whole[name], single[name])]
        same += (paths[0] & paths[1]).total()
        total += max(paths[0].total(), paths[1].total())
    assert total > 100
    assert same / total >= 0.95


def tokens(tree, node):
    return [token for i in tree.path(node) for token in tree.nodes[i].token_ids]


def few_shot_tree(seed):
    """A search tree as in the paper: a prompt of 1,000 tokens, three steps, ten thoughts at each of one path, 27 edges."""
    from align.trees import Node

    rng = torch.Generator().manual_seed(seed)
    ids = torch.randint(5, 400, (1000 + 30 * 30,), generator=rng).tolist()
    nodes, parent = [], -1
    for step in range(3):
        kept = len(nodes)
        for k in range(10):
            start = 1000 + (step * 10 + k) * 30
            nodes.append(Node(f"{step}.{k} ", parent, tuple(ids[start : start + 30]), 1.0, complete=False))
        parent = kept
    search = {"kept": [20], "gold_nodes": [], "answers": {"20": "x"}}
    tree = PreferenceTree("few shots", tuple(nodes), prompt_token_ids=tuple(ids[:1000]), id="t", metadata={"search": search})
    return only_trained(with_step_edges(tree, EdgeRules()))


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1])
def test_a_few_shot_tree_gives_trls_gradients_of_its_pairs(seed, settings):
    from datasets import Dataset
    from trl import DPOConfig, DPOTrainer

    from align.trainers import PreferenceConfig, PreferenceTrainer

    class Raw(DPOTrainer):
        """trl on pairs that are tokens already."""

        def _prepare_dataset(self, dataset, *args):
            return dataset

    def model(seed):
        made = random_model(seed=seed, scale=0.05)
        made.config.max_position_embeddings = 2048
        return made

    tree, tokenizer = few_shot_tree(seed), byte_level_tokenizer()
    assert len(tree.edges) == 27
    above = [list(tree.prompt_token_ids) + [t for i in tree.path(e.chosen)[:-1] for t in tree.nodes[i].token_ids] for e in tree.edges]
    pairs = [
        {"prompt_ids": prompt, "chosen_ids": list(tree.nodes[e.chosen].token_ids), "rejected_ids": list(tree.nodes[e.rejected].token_ids)}
        for prompt, e in zip(above, tree.edges, strict=True)
    ]
    plain = {key: value for key, value in settings.items() if key != "monitor_3d"}
    theirs = Raw(model(0), model(9), DPOConfig(**plain), train_dataset=Dataset.from_list(pairs), processing_class=tokenizer)
    ours = PreferenceTrainer(model(0), model(9), PreferenceConfig(**settings), train_dataset=[tree], processing_class=tokenizer)
    found = []
    for trainer in (theirs, ours):
        batch = trainer.data_collator([trainer.train_dataset[i] for i in range(len(trainer.train_dataset))])
        trainer.model.train()
        loss = trainer.compute_loss(trainer.model, batch)
        loss.backward()
        found.append((loss.item(), {name: p.grad.clone() for name, p in trainer.model.named_parameters()}))
    assert found[1][0] == pytest.approx(found[0][0], abs=2e-5)
    for name, grad in found[0][1].items():
        torch.testing.assert_close(found[1][1][name], grad, atol=2e-6, rtol=2e-4)
