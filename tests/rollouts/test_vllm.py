"""Real vLLM on this machine, offline and as a server, against the embedded engine. Two tests end them by force, after all others."""

import os
import signal
import time
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from conftest import needs_vllm
from ends import check_ends, copied

from align.errors import AlignError
from data_pipelines.rollouts.protocol import Request, Sampling, seed_of
from data_pipelines.rollouts.transformers_engine import TransformersEngine

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("vllm"), needs_vllm]

TEXTS = [f"What is {'very ' * i}good? It is" for i in range(12)]
STOPS = ("e", "at")
ENDS = tuple(range(100, 140))
SETTINGS = {
    "samples": (4, Sampling(24, temperature=0.9, top_p=0.95)),
    "greedy": (1, Sampling(24, temperature=0.0)),
    "stops": (4, Sampling(24, temperature=0.9, stop=STOPS)),
}


def requests(n):
    return [Request(f"p{i}", text, n, seed_of(0, i)) for i, text in enumerate(TEXTS)]


def rollouts(engine, kind):
    n, sampling = SETTINGS[kind]
    return {rollout.id: rollout for rollout in engine.generate(requests(n), sampling)}


@pytest.fixture(scope="module")
def embedded(base_folder):
    return TransformersEngine(base_folder, dtype="float32")


@pytest.fixture
def server_engine(server, base_folder):
    from data_pipelines.rollouts.server_engine import ServerEngine

    return ServerEngine(base_folder, server)


class SeveralEnds(NamedTuple):
    folder: Path
    engine: Any


@pytest.fixture(scope="module")
def several_ends(base_folder, tmp_path_factory):
    """A float32 model whose generation settings list end tokens besides the tokenizer's, opened by vLLM with dtype "auto"."""
    from data_pipelines.rollouts.vllm_engine import VllmEngine

    folder = copied(base_folder, tmp_path_factory.mktemp("several"), eos_token_id=[2, *ENDS])
    engine = VllmEngine(folder, dtype="auto", options={"max_model_len": 256, "max_num_seqs": 64})
    yield SeveralEnds(folder, engine)
    engine.close()


def by_id(rollout):
    return rollout.id


def largest_difference(model, found):
    """Of a token's log-prob, sampler against a plain forward."""
    worst = 0.0
    for rollout in found.values():
        for completion in rollout.completions:
            ids = torch.tensor([rollout.prompt_token_ids + completion.token_ids])
            start = len(rollout.prompt_token_ids)
            with torch.no_grad():
                logps = model(ids).logits.log_softmax(-1)[0, start - 1 : -1].gather(-1, ids[0, start:, None])[:, 0]
            worst = max(worst, (logps - torch.tensor(completion.logps)).abs().max().item())
    return worst


def test_log_probs_of_the_same_tokens_agree(embedded, base_engine, server_engine):
    for engine in (embedded, base_engine, server_engine):
        for kind in SETTINGS:
            assert largest_difference(embedded.model, rollouts(engine, kind)) < 1e-4


def test_greedy_text_is_the_same(embedded, base_engine, server_engine):
    expected = rollouts(embedded, "greedy")
    for engine in (base_engine, server_engine):
        found = rollouts(engine, "greedy")
        assert {id: r.completions[0].text for id, r in found.items()} == {id: r.completions[0].text for id, r in expected.items()}
        assert {id: r.prompt_token_ids for id, r in found.items()} == {id: r.prompt_token_ids for id, r in expected.items()}


def test_samples_of_a_prompt_differ_and_stops_mean_the_same(embedded, base_engine, server_engine):
    for engine in (embedded, base_engine, server_engine):
        for rollout in rollouts(engine, "samples").values():
            assert len({completion.token_ids for completion in rollout.completions}) == 4
            assert {completion.finish_reason for completion in rollout.completions} <= {"length", "stop"}
        for rollout in rollouts(engine, "stops").values():
            for completion in rollout.completions:
                decoded = engine.tokenizer.decode(completion.token_ids, skip_special_tokens=True)
                if completion.stop_text is not None:
                    assert completion.finish_reason == "stop"
                    assert decoded.startswith(completion.text + completion.stop_text)
                elif completion.finish_reason == "stop":
                    assert completion.token_ids[-1] == engine.tokenizer.eos_token_id
                else:
                    assert len(completion.token_ids) == 24
                assert not any(stop in completion.text for stop in STOPS)


def test_samples_do_not_depend_on_the_order_nor_on_how_the_engine_is_reached(base_engine, server_engine):
    """Up to ties in floating point: the share of equal samples is at least 95% (100% where this was written)."""
    n, sampling = SETTINGS["samples"]
    first = rollouts(base_engine, "samples")
    backwards = {r.id: r for r in base_engine.generate(requests(n)[::-1], sampling)}
    served = rollouts(server_engine, "samples")
    for other in (backwards, served):
        same = [a.token_ids == b.token_ids for id in first for a, b in zip(first[id].completions, other[id].completions, strict=True)]
        assert sum(same) / len(same) >= 0.95


def test_an_adapter_is_applied(vllm_engine, adapter_folder, embedded):
    adapted = TransformersEngine(adapter_folder, dtype="float32")
    found = rollouts(vllm_engine, "samples")
    assert largest_difference(adapted.model, found) < 1e-4
    assert largest_difference(embedded.model, found) > 0.1


def test_a_server_with_another_model_is_refused(server, adapter_folder, tmp_path, embedded):
    from data_pipelines.rollouts.server_engine import ServerEngine

    embedded.model.save_pretrained(tmp_path)
    embedded.tokenizer.save_pretrained(tmp_path)
    with pytest.raises(AlignError, match=r"and not .*: start the server with the model of this round"):
        ServerEngine(tmp_path, server)
    with pytest.raises(AlignError, match=r"and not nobody"):
        ServerEngine(tmp_path, server, name="nobody")
    with pytest.raises(AlignError, match=r"no OpenAI-compatible server answers at http://127.0.0.1:9"):
        ServerEngine(tmp_path, "http://127.0.0.1:9")


def test_any_end_token_ends_a_response_in_every_engine(several_ends, server, base_folder):
    """The model's own list of end tokens, a stop token of the user's, and no difference between engines; the server need not know them."""
    from data_pipelines.rollouts.server_engine import ServerEngine

    ours = TransformersEngine(several_ends.folder, dtype="auto")
    theirs = ServerEngine(several_ends.folder, server, name=str(base_folder))
    greedy = {}
    for engine in (ours, several_ends.engine, theirs):
        check_ends(engine, [2, *ENDS], Sampling(24))
        check_ends(engine, [2, *ENDS, *range(140, 150)], Sampling(24, stop_token_ids=tuple(range(140, 150))))
        completions = [rollout.completions[0] for rollout in sorted(engine.generate(requests(1), Sampling(24, temperature=0.0)), key=by_id)]
        greedy[type(engine).__name__] = [(c.text, c.token_ids, c.finish_reason) for c in completions]
    assert greedy["TransformersEngine"] == greedy["VllmEngine"] == greedy["ServerEngine"]


def test_auto_keeps_float32_in_vllm(several_ends):
    """Its own "auto" would load a float32 checkpoint in bfloat16."""
    model = TransformersEngine(several_ends.folder, dtype="float32").model
    assert str(several_ends.engine._llm.model_config.dtype) == "torch.float32"
    assert largest_difference(model, rollouts(several_ends.engine, "samples")) < 1e-4


def test_a_prompt_that_does_not_fit_is_named(server_engine):
    with pytest.raises(AlignError, match=r"refused prompt long: "):
        list(server_engine.generate([Request("long", (5,) * 300)], Sampling(8)))


def test_a_response_ends_where_the_context_does(embedded, base_engine, server_engine):
    for engine in (embedded, base_engine, server_engine):
        (found,) = engine.generate([Request("p", (5,) * 250)], Sampling(20, temperature=0.0))
        assert (len(found.completions[0].token_ids), found.completions[0].finish_reason) == (6, "length")


def children(parent):
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                if int((entry / "stat").read_text().rsplit(")", 1)[1].split()[1]) == parent:
                    found.append(int(entry.name))
            except OSError:
                continue
    return found


@pytest.mark.last
def test_an_engine_that_dies_keeps_what_it_gave(base_engine):
    """The engine's own process is killed in the middle of its work."""
    found = base_engine.generate([Request(f"p{i}", text, 4, i) for i, text in enumerate(TEXTS * 6)], Sampling(100))
    first = next(found)
    assert len(first.completions) == 4
    (victim,) = [
        pid
        for pid in children(os.getpid())
        if "EngineCore" in Path(f"/proc/{pid}/comm").read_text() + Path(f"/proc/{pid}/cmdline").read_text()
    ]
    os.kill(victim, signal.SIGKILL)
    with pytest.raises(AlignError, match=r"the vLLM engine died with .* prompts to go; what was sampled before is kept"):
        list(found)


@pytest.mark.last
def test_a_server_that_dies_is_one_sentence(server_engine):
    found = server_engine.generate([Request(f"p{i}", text, 4, i) for i, text in enumerate(TEXTS * 6)], Sampling(100))
    next(found)
    (victim,) = [pid for pid in children(os.getpid()) if "api_server" in Path(f"/proc/{pid}/cmdline").read_text()]
    os.kill(victim, signal.SIGKILL)
    began = time.monotonic()
    with pytest.raises(AlignError, match=r"the server at .* (no longer answers|failed).*what was sampled before is kept"):
        list(found)
    assert time.monotonic() - began < 60
