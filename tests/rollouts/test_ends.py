"""Where responses end: stop tokens by id and text, a model's several end tokens, and what of it is trained."""

import pytest
from conftest import byte_level_tokenizer
from ends import REQUESTS, check_ends, copied

from align.engine.tokenize import tokenize_tree
from align.errors import AlignError
from align.models import load_model, saved_dtype
from align.sampling import Sampling
from align.trees import Edge, from_record, to_record
from data_pipelines.rollouts.ends import end_token_ids, stop_token_ids
from data_pipelines.rollouts.plan import sampling_of
from data_pipelines.rollouts.protocol import Request
from data_pipelines.rollouts.samples import tree_of
from data_pipelines.rollouts.settings import SamplingSettings
from data_pipelines.rollouts.transformers_engine import TransformersEngine


@pytest.mark.parametrize(
    ("tokens", "ids"), [((5, "<|im_end|>"), (5, 2)), (("\n",), None), (("<|endoftext|>", 0, "<|endoftext|>"), (0,)), ((), ())]
)
def test_stop_tokens_are_named_by_id_or_text(tokens, ids):
    tokenizer = byte_level_tokenizer()
    found = stop_token_ids(tokens, tokenizer)
    assert found == (tuple(tokenizer("\n")["input_ids"]) if ids is None else ids)


@pytest.mark.parametrize(
    ("token", "message"),
    [
        (
            "<|im_ent|>",
            r"rollouts.stop_token_ids: '<\|im_ent\|>' is no single token of the model's tokenizer: did you mean '<\|im_end\|>'\?",
        ),
        ("two words", "'two words' is no single token"),
        (128009, "no token with the id 128009: its ids go from 0 to "),
        (-1, "no token with the id -1"),
    ],
)
def test_a_stop_token_that_does_not_exist_is_refused(token, message):
    with pytest.raises(AlignError, match=message):
        stop_token_ids([token], byte_level_tokenizer())


def test_settings_become_sampling_in_one_place():
    settings = SamplingSettings(7, 0.5, 0.9, 3, 0.1, ("x",), ("<|im_end|>",))
    assert sampling_of(settings, byte_level_tokenizer()) == Sampling(7, 0.5, 0.9, 3, 0.1, ("x",), (2,))


def test_end_tokens_of_a_folder(base_folder, adapter_folder, tmp_path):
    """The tokenizer's and the generation settings'; without these the configuration's; an adapter's base's."""
    tokenizer = byte_level_tokenizer()
    several = copied(base_folder, tmp_path / "several", eos_token_id=[2, 130, 131])
    assert end_token_ids(str(base_folder), tokenizer) == (2,)
    assert end_token_ids(str(several), tokenizer) == (2, 130, 131)
    assert end_token_ids(str(adapter_folder), tokenizer) == (2,)
    (several / "generation_config.json").unlink()
    text = (several / "config.json").read_text()
    (several / "config.json").write_text(text.replace('"eos_token_id": 2', '"eos_token_id": [2, 9]'))
    assert end_token_ids(str(several), tokenizer) == (2, 9)


def test_any_of_a_models_end_tokens_ends_a_response(base_folder, tmp_path):
    ends = [2, *range(100, 140)]
    engine = TransformersEngine(copied(base_folder, tmp_path / "several", eos_token_id=ends), dtype="float32")
    check_ends(engine, ends, Sampling(24))


def test_a_response_is_trained_with_the_end_token_that_it_ended_on(base_folder, tmp_path):
    """Alternative end tokens stand for themselves, nothing follows them; a response that ended for length has no end."""
    ends = [2, *range(100, 140)]
    engine = TransformersEngine(copied(base_folder, tmp_path / "several", eos_token_id=ends), dtype="float32")
    for rollout in engine.generate(REQUESTS, Sampling(24)):
        tree = from_record(to_record(tree_of(rollout, "the prompt", engine.tokenizer)))
        for completion, run in zip(rollout.completions, tokenize_tree(tree, engine.tokenizer).tokens[1:], strict=True):
            assert tuple(run) == completion.token_ids
            assert (run[-1] in ends) == (completion.finish_reason == "stop")


def test_a_response_that_a_stop_text_ended_is_trained_without_it(base_folder):
    engine = TransformersEngine(base_folder, dtype="float32")
    tokenizer, stopped = engine.tokenizer, 0
    for rollout in engine.generate(REQUESTS, Sampling(24, stop=("e", "at"))):
        tree = tree_of(rollout, "the prompt", tokenizer)
        for completion, node, run in zip(rollout.completions, tree.nodes, tokenize_tree(tree, tokenizer).tokens[1:], strict=True):
            assert node.text == completion.text
            assert len(node.metadata["logps"]) == len(node.token_ids)
            if completion.stop_text is None or not completion.text:
                continue
            stopped += 1
            assert run[-1] == tokenizer.eos_token_id
            assert tuple(run[:-1]) == node.token_ids == completion.token_ids[: len(node.token_ids)]
            trained, last = (tokenizer.decode(run[:-n], skip_special_tokens=True) for n in (1, 2))
            assert trained.startswith(completion.text)
            assert len(last) < len(completion.text), "a token of the stop text alone is trained"
    assert stopped > 10


def test_a_stop_token_in_plain_sight_is_no_part_of_the_text(base_folder):
    """A token that is no special one, such as a line break."""
    engine = TransformersEngine(base_folder, dtype="float32")
    check_ends(engine, [2, *range(100, 140)], Sampling(24, stop_token_ids=tuple(range(100, 140))))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_auto_is_the_precision_that_was_saved(dtype, base_folder, tmp_path):
    import torch

    model = load_model(str(base_folder), dtype=dtype)
    model.save_pretrained(tmp_path)
    assert saved_dtype(str(tmp_path)) == dtype
    config = (tmp_path / "config.json").read_text()
    (tmp_path / "config.json").write_text(config.replace(f'"dtype": "{dtype}",', ""))
    assert "dtype" not in (tmp_path / "config.json").read_text()
    assert saved_dtype(str(tmp_path)) == dtype, "the weights themselves say it"
    assert load_model(str(tmp_path), dtype="auto").dtype == getattr(torch, dtype)


def test_edges_survive(base_folder):
    """A pair of an alternative end against a cut response keeps both as sampled."""
    engine = TransformersEngine(base_folder, dtype="float32")
    (rollout,) = engine.generate([Request("p", (5, 6, 7), 2, 3)], Sampling(6, stop_token_ids=tuple(range(100, 140))))
    tree = tree_of(rollout, "the prompt", engine.tokenizer)
    pair = tokenize_tree(type(tree)(tree.prompt, tree.nodes, (Edge(0, 1),), prompt_token_ids=tree.prompt_token_ids), engine.tokenizer)
    assert [tuple(run) for run in pair.tokens[1:]] == [completion.token_ids for completion in rollout.completions]
