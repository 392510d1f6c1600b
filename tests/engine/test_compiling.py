"""Compiled decoder layers on a CPU: the same numbers, one compilation for all layers, copies with weights of their own."""

import copy
import random
from types import SimpleNamespace

import pytest
import torch
import torch._dynamo.testing
import torch._dynamo.utils
from conftest import random_model
from torch.utils._python_dispatch import TorchDispatchMode

from align.engine import TokenTree, choose_backend, fused, install, lm_head, pack, tree_scores
from align.engine.attention import Use, kernels, plans_for
from align.engine.compiling import compile_layers, uncompile_layers
from align.engine.model import Wanted
from align.engine.row_lengths import RowLengths

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")


def batch_of(seed, length=256):
    rng = random.Random(seed)

    def tokens(longest):
        return [rng.randrange(3, 60) for _ in range(rng.randint(2, longest))]

    trees = [
        TokenTree([tokens(30), tokens(9), tokens(9), tokens(9)], [-1, 0, 0, 1], [(1, 2), (3, 2)], [1.0] * 2, [0.0] * 2) for _ in range(3)
    ]
    return pack(trees, row_length=RowLengths(length))


@pytest.fixture
def compilations(monkeypatch):
    """Counts what dynamo hands to a backend; the graphs run as they are, which is quicker than compiling them."""
    torch._dynamo.reset()
    counter = torch._dynamo.testing.CompileCounterWithBackend("aot_eager")
    yield counter
    torch._dynamo.reset()


@pytest.mark.slow
@pytest.mark.parametrize(
    "family", ["gemma2-eager", *(pytest.param(f, marks=pytest.mark.exhaustive) for f in ("llama", "qwen3", "mistral-window"))]
)
def test_compiled_layers_with_flex_score_as_the_dense_mask(family, compilations):
    """Rows of one length, of other trees each: no graph break, and nothing compiled after the first."""
    model, exact, backend = random_model(family), random_model(family), "flex"
    install(model, backend)
    install(exact, "dense")
    compile_layers(model, backend=compilations)
    torch._dynamo.utils.counters.clear()
    for seed in range(4):
        with torch.no_grad():
            got = tree_scores(model, batch_of(seed), backend).logps
            expected = tree_scores(exact, batch_of(seed), "dense").logps
        torch.testing.assert_close(got, expected, rtol=0, atol=2e-5)
        if seed == 0:
            first = compilations.frame_count
    assert compilations.frame_count == first <= 5  # kinds of layers, and the last norm
    assert not torch._dynamo.utils.counters["graph_break"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("backend", "checkpointing"),
    [
        ("cascade", True),
        pytest.param("cascade", False, marks=pytest.mark.exhaustive),
        pytest.param("gather", True, marks=pytest.mark.exhaustive),
    ],
)
def test_compiled_layers_train_as_layers_do(backend, checkpointing, compilations):
    gradients = []
    for compiled in (False, True):
        model = random_model("qwen2").train()
        install(model, backend)
        if compiled:
            compile_layers(model, backend=compilations)
        if checkpointing:
            model.gradient_checkpointing_enable()
        for seed in range(2):
            tree_scores(model, batch_of(seed), backend).logps.sum().backward()
        gradients.append(torch.cat([parameter.grad.flatten() for parameter in model.parameters()]))
    torch.testing.assert_close(*gradients, rtol=1e-4, atol=1e-4)


@pytest.mark.slow
def test_a_copy_of_an_installed_model_runs_its_own_weights(compilations):
    model = random_model("llama")
    install(model, "cascade")
    compile_layers(model, backend=compilations)
    ids = torch.arange(5, 17)[None]
    with torch.no_grad():
        before, plain = tree_scores(model, batch_of(0), "cascade").logps, model(input_ids=ids).logits
        twin = copy.deepcopy(model)
        for parameter in twin.parameters():
            parameter.mul_(0.5)
        assert not torch.allclose(tree_scores(twin, batch_of(0), "cascade").logps, before, atol=1e-3)
        assert not torch.allclose(twin(input_ids=ids).logits, plain, atol=1e-3)
        other = random_model("llama")
        other.load_state_dict(twin.state_dict())
        install(other, "cascade")
        torch.testing.assert_close(tree_scores(twin, batch_of(0), "cascade").logps, tree_scores(other, batch_of(0), "cascade").logps)
        torch.testing.assert_close(tree_scores(model, batch_of(0), "cascade").logps, before, rtol=0, atol=0)


def test_saved_weights_do_not_know_that_layers_are_compiled(compilations):
    model = random_model("llama")
    names = list(model.state_dict())
    install(model, "cascade")
    compile_layers(model, backend=compilations)
    assert list(model.state_dict()) == names


def test_fused_scores_of_labels_are_those_of_log_softmax(monkeypatch):
    """The functions that are compiled on a GPU, as they stand."""
    monkeypatch.setattr(fused, "works_on", lambda device: True)
    monkeypatch.setattr(fused, "_compiled", lambda function: function)
    torch.manual_seed(0)
    weight, hidden, labels = torch.randn(50, 8, requires_grad=True), torch.randn(90, 8, requires_grad=True), torch.randint(50, (90,))
    monkeypatch.setitem(lm_head._CHUNK, "cpu", 7 * 50)
    scores = lm_head.score_tokens(lambda h: h @ weight.T, hidden, labels, 50, sum_sq=True)
    weights = torch.randn(90)
    got = torch.autograd.grad((scores.logps * weights).sum(), (hidden, weight))
    logits = hidden @ weight.T
    logps = logits.log_softmax(-1)
    picked = logps.gather(1, labels[:, None])[:, 0]
    torch.testing.assert_close(scores.logps, picked)
    for part, expected in zip(got, torch.autograd.grad((picked * weights).sum(), (hidden, weight)), strict=True):
        torch.testing.assert_close(part, expected, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(scores.entropy, -(logps.exp() * logps).sum(-1), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(scores.mean_logits, logits.mean(-1), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(scores.is_top1, (logits.argmax(-1) == labels).float())
    torch.testing.assert_close(scores.log_sum_sq_probs, (2 * logps).logsumexp(-1), rtol=1e-4, atol=1e-5)
    alone = lm_head.score_tokens(lambda h: h @ weight.T, hidden, labels, 50, statistics=False)
    torch.testing.assert_close(alone.logps, picked)
    torch.testing.assert_close(torch.autograd.grad((alone.logps * weights).sum(), hidden)[0], got[0], rtol=1e-4, atol=1e-5)
    assert not any(values.any() for values in (alone.entropy, alone.mean_logits, alone.is_top1, alone.log_sum_sq_probs))


class Waits(TorchDispatchMode):
    """Operations that make the host wait for a GPU: a number read, a result whose size depends on values."""

    KINDS = ("_local_scalar_dense", "nonzero", "masked_select", "unique", "equal", "is_nonzero")

    def __init__(self):
        super().__init__()
        self.seen = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        if any(kind in str(function) for kind in self.KINDS):
            self.seen.append(str(function))
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize("family", ["qwen3", "mistral-window"])
@pytest.mark.parametrize("window", [6, 4096])
@pytest.mark.parametrize("backend", ["cascade", "gather"])
def test_a_call_reads_nothing_back_from_the_device_and_finds_its_plans(family, backend, window, monkeypatch):
    """The way of a GPU's kernels, with the kernels themselves left out."""
    monkeypatch.setattr(kernels, "has_varlen", lambda device, dtype, head_dim: True)
    monkeypatch.setattr(kernels, "varlen_forward", lambda q, *rest, **more: (q, q.sum(-1).t().float()))
    monkeypatch.setattr(kernels, "varlen_backward", lambda grad, q, k, v, *rest, **more: (q, k, v))
    model = random_model(family).train()
    model.config.sliding_window = window if family == "mistral-window" else None
    for layer in model.model.layers:
        layer.self_attn.sliding_window = model.config.sliding_window
    install(model, backend)
    batch = batch_of(0)
    plans_for(model, backend, Use.of(model))(batch.layout)
    made = set(batch.layout.plans)
    with Waits() as waits:
        tree_scores(model, batch, backend).logps.sum().backward()
    assert not waits.seen
    assert set(batch.layout.plans) == made != set(), "a plan that is missing is made in the middle of a step"


@pytest.mark.slow
def test_router_losses_are_recorded_whatever_was_compiled_before(compilations):
    """Scored without first, as by the check of the reference, then with."""
    results = []
    for compiled in (False, True):
        model = random_model("mixtral")
        model.config.output_router_logits = True
        install(model, "cascade")
        if compiled:
            compile_layers(model, backend=compilations)
        tree_scores(model, batch_of(0), "cascade")
        results.append(tree_scores(model, batch_of(0), "cascade", Wanted(router_loss=True)).aux_loss)
    torch.testing.assert_close(*results)


@pytest.mark.slow
def test_sampling_compiles_nothing(compilations):
    """Prompts and caches grow by a token a step: layers run as they were written."""
    model = random_model("llama")
    install(model, "cascade")
    compile_layers(model, backend=compilations)
    with torch.no_grad():
        tree_scores(model, batch_of(0), "cascade")
        before = compilations.frame_count
        model.generate(torch.arange(5, 17)[None], max_new_tokens=6, do_sample=False)
        assert compilations.frame_count == before
        uncompile_layers(model)
        tree_scores(model, batch_of(1, 512), "cascade")
        assert compilations.frame_count == before


def test_flex_is_what_compiled_layers_are_given_on_a_gpu_and_flash_without(monkeypatch):
    """By what the registry says; nothing runs."""
    from align.engine.probe import preference

    gpu = torch.device("cuda")
    half = torch.bfloat16
    llama, window, capped = (random_model(family) for family in ("llama", "mistral-window", "gemma2-eager"))
    assert preference(llama, "auto", Use(gpu, half, compiled=True))[0][0] == "flex"
    assert preference(llama, "auto", Use(gpu, half))[0][:2] == ["cascade", "gather"]
    assert preference(window, "auto", Use(gpu, half))[0][0] == "gather"
    assert preference(capped, "auto", Use(gpu, half))[0][0] == "flex"
    assert preference(llama, "auto", Use(gpu, torch.float32))[0][0] == "flex"
    assert preference(llama, "auto", Use(torch.device("cpu"), torch.float32))[0][0] == "cascade"
    assert preference(window, "auto", Use(torch.device("cpu"), torch.float32))[0][0] == "gather"


def test_the_choice_is_the_quickest_of_what_was_timed(monkeypatch):
    from align.engine import probe

    model = random_model("llama")
    monkeypatch.setattr(probe, "seconds_per_layer", lambda able, *rest: dict.fromkeys(able, 1.0) | {"gather": 0.5})
    gpu, row = Use(torch.device("cuda"), torch.bfloat16), batch_of(0).layout
    order, seconds = probe.preference(model, "auto", gpu, lambda: SimpleNamespace(to=lambda device: row, **vars(row)))
    assert order == ["gather", "cascade", "flex", "dense", "unshared", "unshared_model_logits"]
    assert set(seconds) == {"cascade", "gather"}


@pytest.mark.parametrize(("window", "able"), [(6, {"gather"}), (4096, {"cascade", "gather"})])
def test_a_window_that_no_sequence_fills_rules_nothing_out(window, able, monkeypatch):
    from align.engine import probe

    model, row = random_model("mistral-window"), batch_of(0).layout
    model.config.sliding_window = window
    monkeypatch.setattr(probe, "seconds_per_layer", lambda able, *rest: dict.fromkeys(able, 1.0))
    order, _ = probe.preference(model, "auto", Use(torch.device("cuda"), torch.bfloat16), lambda: SimpleNamespace(to=lambda device: row))
    assert set(order[: order.index("flex")]) == able


def test_timing_runs_what_it_is_to_time():
    from align.engine.attention import layers_of
    from align.engine.timing import seconds_per_layer

    model = random_model("qwen2")
    found = seconds_per_layer(["cascade", "gather"], layers_of(model, Use.of(model)), model.config, batch_of(0).layout)
    assert set(found) == {"cascade", "gather"}
    assert all(value > 0 for value in found.values())


def test_choosing_restores_what_it_probed_with():
    model = random_model("llama").train()
    choose_backend(model)
    assert model.training
