"""The embedded engine against plain forwards: log-probs, greedy text, stops, seeds."""

import pytest
import torch
from conftest import FAMILIES, byte_level_tokenizer, random_model

from align.engine.generate import sample_responses
from align.errors import AlignError
from align.sampling import Sampling
from data_pipelines.rollouts.protocol import Request, seed_of
from data_pipelines.rollouts.transformers_engine import TransformersEngine

PROMPTS = [[5, 6, 7], [9] * 17, [3], [8, 8], [11, 12, 13, 14, 15]]


def plain_logps(model, prompt, response):
    ids = torch.tensor([list(prompt) + list(response)])
    with torch.no_grad():
        logps = model(ids).logits.float().log_softmax(-1)
    return logps[0, len(prompt) - 1 : -1].gather(-1, ids[0, len(prompt) :, None])[:, 0]


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.slow
def test_samples_carry_the_models_own_log_probs_whatever_the_batch(family):
    """Left padding, the shared cache and the temperature change nothing of the log-probs; the batch nothing of the samples."""
    model, tokenizer = random_model(family), byte_level_tokenizer()
    sampling = Sampling(10, temperature=0.8, top_p=0.95, top_k=50)
    seeds = [seed_of(0, i) for i in range(5)]
    together = sample_responses(model, PROMPTS, sampling, tokenizer=tokenizer, seeds=seeds, n=3)
    for prompt, mine in zip(PROMPTS, together, strict=True):
        assert len({sample.token_ids for sample in mine}) == 3
        for sample in mine:
            torch.testing.assert_close(torch.tensor(sample.logps), plain_logps(model, prompt, sample.token_ids), atol=1e-4, rtol=0)
    backwards = sample_responses(model, PROMPTS[::-1], sampling, tokenizer=tokenizer, seeds=seeds[::-1], n=3, batch_size=6)
    assert [[s.token_ids for s in mine] for mine in backwards[::-1]] == [[s.token_ids for s in mine] for mine in together]


def test_frequencies_are_the_models_probabilities():
    """4,000 first tokens against softmax, with and without a filter."""
    model, tokenizer = random_model(scale=0.3), byte_level_tokenizer()
    logits = model(torch.tensor([[5, 6, 7]])).logits[0, -1].detach()
    for sampling, keep in ((Sampling(1, temperature=0.7), 400), (Sampling(1, temperature=0.7, top_k=3), 3)):
        found = sample_responses(model, [[5, 6, 7]], sampling, tokenizer=tokenizer, seeds=[7], n=4000, batch_size=4000)[0]
        counts = torch.bincount(torch.tensor([s.token_ids[0] for s in found]), minlength=400) / 4000
        kept = torch.where(logits >= logits.topk(keep).values[-1], logits / 0.7, -torch.inf)
        torch.testing.assert_close(counts, kept.softmax(-1), atol=0.03, rtol=0)


def test_greedy_is_the_argmax_and_the_global_random_state_is_left_alone():
    model, tokenizer = random_model(), byte_level_tokenizer()
    torch.manual_seed(5)
    before = torch.random.get_rng_state()
    (found,) = sample_responses(model, [[5, 6, 7]], Sampling(8, temperature=0.0), tokenizer=tokenizer)
    assert torch.equal(torch.random.get_rng_state(), before)
    ids = [5, 6, 7]
    for token in found[0].token_ids:
        assert token == model(torch.tensor([ids])).logits[0, -1].argmax().item()
        ids.append(token)


def test_a_models_own_generation_settings_are_off():
    model, tokenizer = random_model(), byte_level_tokenizer()
    plain = sample_responses(model, PROMPTS, Sampling(8), tokenizer=tokenizer)
    model.generation_config.update(repetition_penalty=5.0, top_k=1, do_sample=True, temperature=0.1)
    assert sample_responses(model, PROMPTS, Sampling(8), tokenizer=tokenizer) == plain


def test_stops_and_finish_reasons(base_folder):
    engine = TransformersEngine(base_folder, dtype="float32")
    requests = [Request(f"p{i}", tuple(p), 16, seed_of(i)) for i, p in enumerate(PROMPTS)]
    found = {r.id: r for r in engine.generate(requests, Sampling(24, stop=("e", "at")))}
    for rollout in found.values():
        for completion in rollout.completions:
            decoded = engine.tokenizer.decode(completion.token_ids, skip_special_tokens=True)
            if completion.finish_reason == "length":
                assert len(completion.token_ids) == 24
                assert not any(stop in decoded for stop in ("e", "at"))
            elif completion.stop_text is None:
                assert completion.token_ids[-1] == engine.tokenizer.eos_token_id
            else:
                assert decoded.startswith(completion.text + completion.stop_text)
                earlier = engine.tokenizer.decode(completion.token_ids[:-1], skip_special_tokens=True)
                assert not any(stop in earlier for stop in ("e", "at"))
    reasons = {(c.finish_reason, c.stop_text) for r in found.values() for c in r.completions}
    assert ("stop", "e") in reasons
    (ended,) = engine.generate([Request("p", tuple(PROMPTS[0]), 1, 3)], Sampling(24, stop_token_ids=tuple(range(100, 400))))
    assert ended.completions[0].token_ids[-1] >= 100
    assert all(token < 100 for token in ended.completions[0].token_ids[:-1])


def test_a_response_ends_where_the_context_does(base_folder):
    engine = TransformersEngine(base_folder, dtype="float32")
    assert engine.context == 256
    (found,) = engine.generate([Request("p", (5,) * 250)], Sampling(20, temperature=0.0))
    assert len(found.completions[0].token_ids) == 6
    assert found.completions[0].finish_reason == "length"


def test_an_adapters_folder_is_a_model(base_folder, adapter_folder):
    base, adapted = (TransformersEngine(folder, dtype="float32") for folder in (base_folder, adapter_folder))
    request = [Request("p", "What is it?", 1, 0)]
    (one,), (other,) = (list(engine.generate(request, Sampling(12, temperature=0.0))) for engine in (base, adapted))
    assert one.completions != other.completions


@pytest.mark.parametrize("reading", ["prefixes", "plain"])
def test_empty_prompts_and_single_tokens_have_their_places(base_folder, reading):
    engine = TransformersEngine(base_folder, dtype="float32", reading=reading)
    requests = [Request("empty", (), 3), Request("single", (7,), 3, 5), Request("same", (7,), 3, 5)]
    found = {rollout.id: rollout for rollout in engine.generate(requests, Sampling(6))}
    assert [completion.text for completion in found["empty"].completions] == [""] * 3
    for one, other in zip(found["single"].completions, found["same"].completions, strict=True):
        assert one.token_ids == other.token_ids
        assert one.logps == pytest.approx(other.logps, abs=1e-5)  # rounding depends on the place in a batch
    assert len({completion.token_ids for completion in found["single"].completions}) > 1
    assert list(engine.generate([], Sampling(6))) == []


def test_nothing_is_kept_of_weights_that_have_changed(base_folder):
    """Between calls the model may be trained: what was read before counts for nothing."""
    engine = TransformersEngine(base_folder, dtype="float32")
    requests = [Request(f"p{i}", (*range(5, 90), i), 2, i) for i in range(5, 9)]
    before = list(engine.generate(requests, Sampling(8)))
    with torch.no_grad():
        for parameter in engine.model.parameters():
            parameter.mul_(1.3)
    after = {rollout.id: rollout for rollout in engine.generate(requests, Sampling(8))}
    assert any(after[rollout.id].completions != rollout.completions for rollout in before)
    for request in requests:
        for completion in after[request.id].completions:
            expected = plain_logps(engine.model, request.prompt, completion.token_ids)
            torch.testing.assert_close(torch.tensor(completion.logps), expected, atol=1e-5, rtol=0)


def test_a_response_stands_alone_where_the_context_ends(base_folder):
    """A neighbour with a longer prompt takes nothing of a response's length."""
    engine = TransformersEngine(base_folder, dtype="float32")
    requests = [Request("long", (5,) * 250), Request("short", (6,) * 10)]
    found = {rollout.id: rollout.completions[0] for rollout in engine.generate(requests, Sampling(20, temperature=0.0))}
    assert [len(found[id].token_ids) for id in ("long", "short")] == [6, 20]


def test_the_way_of_reading_is_named_right(base_folder):
    with pytest.raises(AlignError, match=r"rollouts.options.reading is 'prefix': did you mean 'prefixes'\?"):
        TransformersEngine(base_folder, reading="prefix")


def test_requests_that_make_no_sense_are_refused(base_folder):
    engine = TransformersEngine(base_folder, dtype="float32")
    with pytest.raises(AlignError, match="samples above 1 at temperature 0"):
        list(engine.generate([Request("p", (5,), 2)], Sampling(3, temperature=0.0)))
    with pytest.raises(AlignError, match="the same id"):
        list(engine.generate([Request("p", (5,)), Request("p", (6,))], Sampling(3)))
    with pytest.raises(AlignError, match=r"model.name_or_path './nowhere'"):
        TransformersEngine("./nowhere")
