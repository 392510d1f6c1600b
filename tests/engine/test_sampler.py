"""Sampling from prefix caches against transformers' own `generate`, in many families; what is read, what is kept, who falls back."""

import random

import pytest
import torch
from conftest import FALL_BACK, FAMILIES, byte_level_tokenizer, random_model

from align.engine import levels
from align.engine.attention import masked
from align.engine.generate import sample_responses
from align.engine.prefix_probe import why_not
from align.engine.sampler import Job, PrefixSampler
from align.sampling import Sampling


def prompts_of(seed, count=14, longest=80):
    """Prompts that share much, little or nothing; some are equal, one is the beginning of others, one a single token."""
    rng = random.Random(seed)
    base = [rng.randrange(5, 400) for _ in range(longest)]
    prompts = [
        tuple(base[: rng.choice([0, 3, longest - 10, longest])] + [rng.randrange(5, 400) for _ in range(rng.randrange(1, 20))])
        for _ in range(count - 4)
    ]
    return [*prompts, prompts[0], tuple(base[: longest - 10]), tuple(base), (7,)]


def jobs_of(prompts, n, longest):
    return [Job(str(number), prompt, n, 100 * number, longest) for number, prompt in enumerate(prompts)]


def plainly(model, prompts, sampling, n):
    seeds = [100 * number for number in range(len(prompts))]
    return sample_responses(model, prompts, sampling, tokenizer=byte_level_tokenizer(), seeds=seeds, n=n)


def assert_same(found, expected, tolerance=1e-5):
    for number, samples in enumerate(expected):
        mine = found[str(number)]
        assert [(s.token_ids, s.finish_reason) for s in mine] == [(s.token_ids, s.finish_reason) for s in samples]
        for sample, other in zip(mine, samples, strict=True):
            torch.testing.assert_close(torch.tensor(sample.logps), torch.tensor(other.logps), atol=tolerance, rtol=0)


def sampler_of(model, batch=8, budget=1 << 28):
    return PrefixSampler(model, byte_level_tokenizer(), batch=batch, budget=budget)


@pytest.mark.slow
@pytest.mark.parametrize("family", sorted(set(FAMILIES) - FALL_BACK))
def test_samples_are_those_of_plain_generation(family):
    """Cold, within a session and warm; windows of 6 tokens, soft-capping and sinks among the families."""
    model, prompts = random_model(family), prompts_of(0)
    sampler = sampler_of(model)
    assert why_not(model, sampler) is None
    sampling = Sampling(10, temperature=0.8, top_p=0.95, stop=("e",))
    expected = plainly(model, prompts, sampling, 3)
    assert_same(dict(sampler.sample(jobs_of(prompts, 3, 10), sampling)), expected)
    assert sampler.tree.bytes == 0
    with sampler.keeping():
        assert_same(dict(sampler.sample(jobs_of(prompts, 3, 10), sampling)), expected)
        assert sampler.tree.bytes > 0
        longer = [prompt + expected[number][0].token_ids for number, prompt in enumerate(prompts)]
        assert_same(dict(sampler.sample(jobs_of(longer, 2, 10), sampling)), plainly(model, longer, sampling, 2))
    assert sampler.tree.bytes == 0


@pytest.mark.parametrize("batch", [1, 5, 64])
@pytest.mark.parametrize("budget", [0, 3000, 1 << 28])
def test_batch_and_memory_change_no_sample(batch, budget):
    model, prompts, sampling = random_model(), prompts_of(1, 8), Sampling(12, temperature=1.0)
    with (sampler := sampler_of(model, batch, budget)).keeping():
        for _ in range(2):
            assert_same(dict(sampler.sample(jobs_of(prompts, 2, 12), sampling)), plainly(model, prompts, sampling, 2))
            assert sampler.tree.bytes <= budget


def test_greedy_decoding_is_plain_greedy_decoding():
    model, prompts, sampling = random_model("qwen2"), prompts_of(2, 8), Sampling(40, temperature=0.0)
    assert_same(dict(sampler_of(model).sample(jobs_of(prompts, 1, 40), sampling)), plainly(model, prompts, sampling, 1))


@pytest.mark.parametrize("family", sorted(FALL_BACK))
def test_models_that_cannot_share_say_why(family):
    model = random_model(family)
    assert why_not(model, sampler_of(model)) in (
        "it does not go through transformers' attention interface",
        "it has layers of other kinds (conv)",
    )


def test_a_model_whose_numbers_differ_is_found_out():
    """Attention of a layer that looks further than its interface says."""
    model = random_model()
    attention = model.model.layers[1].self_attn
    plain = attention.forward
    attention.forward = lambda *args, **kwargs: (plain(*args, **kwargs)[0] * (1.0 if kwargs.get("prefix_context") is None else 1.1), None)
    assert why_not(model, sampler_of(model)).startswith("log-probs differ by ")
    assert model.config._attn_implementation == "sdpa"


def test_numbers_that_are_none_are_found_out():
    model = random_model()
    attention = model.model.layers[1].self_attn
    plain = attention.forward
    factor = {True: 1.0, False: float("nan")}
    attention.forward = lambda *args, **kwargs: (plain(*args, **kwargs)[0] * factor[kwargs.get("prefix_context") is None], None)
    assert why_not(model, sampler_of(model)) == "log-probs differ by nan nats"


def test_large_queries_and_keys_do_not_overflow_in_half_precision():
    """Their product is larger than float16 holds, scaled it is not."""
    queries, keys, values = (torch.full((1, 2, 3, 64), x, dtype=torch.float16) for x in (40.0, 40.0, 1.0))
    mask = torch.ones(1, 3, 3, dtype=torch.bool)
    assert torch.equal(levels._one_level(queries, keys, values, mask, 0.125, None, None), torch.ones(1, 3, 2, 64, dtype=torch.float16))
    own = levels._one_query([], 0, queries[:, :, :1], keys, values, mask[:, :1], 0.125, None, None)
    assert torch.equal(own, torch.ones(1, 1, 2, 64, dtype=torch.float16))
    capped = masked.attend(queries, keys, values, mask[0], 0.125, softcap=500.0)
    assert torch.equal(capped, torch.ones(1, 2, 3, 64, dtype=torch.float16))


class Reading:
    """Counts the tokens of a model's forwards that are read of prompts, and the rows that are decoded."""

    def __init__(self, sampler):
        self.read, self.decoded, forward = 0, 0, sampler.reader.forward

        def counted(ids, context, cache):
            if ids.shape[1] > 1 or type(cache).__name__ == "DynamicCache":
                self.read += int((context.positions >= 0).sum())
            else:
                self.decoded += len(ids)
            return forward(ids, context, cache)

        sampler.reader.forward = counted


def test_what_prompts_share_is_read_once():
    model, few_shots = random_model(), tuple(range(5, 305))
    prompts = [(*few_shots, 5 + number, 6, 7) for number in range(6)]
    sampler = sampler_of(model)
    reading = Reading(sampler)
    with sampler.keeping():
        first = dict(sampler.sample(jobs_of(prompts, 4, 8), Sampling(8, stop_token_ids=())))
        assert reading.read == 300 + 6 * 3
        reading.read = 0
        longer = [prompt + first[str(number)][2].token_ids for number, prompt in enumerate(prompts)]
        dict(sampler.sample(jobs_of(longer, 4, 8), Sampling(8)))
        assert reading.read == 6  # the last tokens, which were drawn and not read
    dict(sampler.sample(jobs_of(prompts, 1, 2), Sampling(2)))
    assert reading.read == 6 + 300 + 6 * 3


def test_a_row_that_ends_makes_room():
    """One long sample among many short ones: rows are not decoded on until the longest ends."""
    model = random_model()
    sampler = sampler_of(model, batch=8)
    reading = Reading(sampler)
    jobs = [Job(str(number), (5 + number, 6), 1, number, 60 if number == 0 else 3) for number in range(33)]
    found = dict(sampler.sample(jobs, Sampling(60, temperature=1.0, stop_token_ids=())))
    tokens = sum(len(samples[0].token_ids) for samples in found.values())
    assert reading.decoded <= 1.5 * tokens


@pytest.mark.parametrize("dtype", [torch.bfloat16])
def test_in_bfloat16_log_probs_are_the_models_own_up_to_its_rounding(dtype):
    model = random_model().to(dtype)
    sampler = sampler_of(model)
    assert why_not(model, sampler) is None
    for id, samples in sampler.sample(jobs_of(prompts_of(3, 8), 2, 10), Sampling(10)):
        prompt = prompts_of(3, 8)[int(id)]
        for sample in samples:
            with torch.no_grad():
                logps = model(torch.tensor([[*prompt, *sample.token_ids]])).logits[0].float().log_softmax(-1)
            expected = logps[len(prompt) - 1 : -1].gather(-1, torch.tensor(sample.token_ids)[:, None])[:, 0]
            torch.testing.assert_close(torch.tensor(sample.logps), expected, atol=0.1, rtol=0)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("family", ["llama", "gemma3", "gpt-oss", "mistral-window"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_on_a_gpu_log_probs_are_the_models_own(family, dtype):
    torch.backends.cuda.matmul.allow_tf32 = False
    model, prompts = random_model(family).to("cuda", dtype), prompts_of(4, 12)
    sampler = sampler_of(model)
    assert why_not(model, sampler) is None
    with sampler.keeping():
        for _ in range(2):
            for id, samples in sampler.sample(jobs_of(prompts, 3, 10), Sampling(10, temperature=0.8, top_p=0.95, stop=("e",))):
                prompt = prompts[int(id)]
                for sample in samples:
                    with torch.no_grad():
                        logps = model(torch.tensor([[*prompt, *sample.token_ids]], device="cuda")).logits[0].float().log_softmax(-1).cpu()
                    expected = logps[len(prompt) - 1 : -1].gather(-1, torch.tensor(sample.token_ids)[:, None])[:, 0]
                    torch.testing.assert_close(torch.tensor(sample.logps), expected, atol=1e-4 if dtype is torch.float32 else 0.3, rtol=0)
