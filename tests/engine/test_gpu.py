"""What only a GPU can show: flash and compiled kernels in half precision, compiled layers, Liger's kernels, no waiting for the device."""

import copy
import random
import warnings

import pytest
import torch
from conftest import FAMILIES, random_model
from datasets import Dataset
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast, TrainerCallback

from align.engine import TokenTree, choose_backend, fused, install, lm_head, pack, tree_scores
from align.engine.attention import BACKENDS, Layer, Use, tree_attention
from align.engine.compiling import compile_layers
from align.engine.row_lengths import RowLengths
from align.trainers import PreferenceConfig, PreferenceTrainer
from align.trainers.collator import record_of

pytestmark = pytest.mark.gpu
VOCAB = 512


def tokens(n, rng):
    return [rng.randrange(3, VOCAB) for _ in range(n)]


def trees(seed=0):
    """A pair, a group, a tree of steps, two trees with a common beginning."""
    rng = random.Random(seed)
    common = tokens(70, rng)
    return [
        TokenTree([tokens(n, rng) for n in (90, 60, 75)], [-1, 0, 0], [(1, 2)], [1.0], [0.0]),
        TokenTree([tokens(n, rng) for n in (40, *[30] * 6)], [-1] + [0] * 6, [(1, i) for i in range(2, 7)], [1.0] * 5, [0.0] * 5),
        *(
            TokenTree(
                [common + tokens(25, rng), *(tokens(n, rng) for n in (12, 20, 9, 31, 14, 8))],
                [-1, 0, 0, 1, 1, 3, 3],
                [(1, 2), (3, 4), (5, 6)],
                [1.0] * 3,
                [0.0] * 3,
            )
            for _ in range(2)
        ),
    ]


def model(seed=0, **settings):
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=VOCAB, hidden_size=256, intermediate_size=512, num_hidden_layers=3, num_attention_heads=8, num_key_value_heads=2,
        head_dim=64, max_position_embeddings=1024, **settings,
    )  # fmt: skip
    return LlamaForCausalLM(config).to("cuda", torch.bfloat16)


def attention(backend, layout, dtype, options, seed=0):
    generator = torch.Generator().manual_seed(seed)
    draw = [torch.randn(1, heads, layout.length, 64, generator=generator).to("cuda", torch.bfloat16) for heads in (8, 2, 2, 8)]
    q, k, v = (x.to(dtype).requires_grad_() for x in draw[:3])
    out = tree_attention(backend, q, k, v, layout, 0.125, **options)
    return [out.detach(), *torch.autograd.grad(out, (q, k, v), draw[3].to(dtype))]


CASES = [
    (backend, options)
    for backend in BACKENDS
    for options in ({}, {"window": 48}, {"softcap": 2.0}, {"sinks": "sinks"}, {"window": 48, "softcap": 2.0, "sinks": "sinks"})
    if backend != "dense"
    and BACKENDS[backend].refuses(
        Layer(torch.device("cuda"), torch.bfloat16, 64, options.get("window"), "softcap" in options, "sinks" in options)
    )
    is None
]


@pytest.mark.parametrize(("backend", "options"), CASES, ids=[f"{backend} {' '.join(options)}" for backend, options in CASES])
def test_backend_is_within_twice_the_dense_masks_own_rounding_error(backend, options):
    if "sinks" in options:
        options = options | {"sinks": torch.linspace(-1, 1, 8, device="cuda")}
    layout = pack(trees(), row_length=RowLengths()).to("cuda").layout
    exact = attention("dense", layout, torch.float32, options)
    dense = attention("dense", layout, torch.bfloat16, options)
    got = attention(backend, layout, torch.bfloat16, options)
    used = slice(0, layout.used)
    for part, rounded, expected in zip(got, dense, exact, strict=True):
        part, rounded, expected = (x[:, :, used].float() for x in (part, rounded, expected))
        assert (part - expected).norm() <= 2 * (rounded - expected).norm()


def test_fused_scores_of_labels_are_those_of_log_softmax():
    torch.manual_seed(0)
    assert fused.works_on(torch.device("cuda", 0))
    hidden = torch.randn(700, 64, device="cuda", requires_grad=True)
    weight = torch.randn(1000, 64, device="cuda", requires_grad=True)
    labels, weights = torch.randint(1000, (700,), device="cuda"), torch.randn(700, device="cuda")
    scores = lm_head.score_tokens(lambda x: x @ weight.T, hidden, labels, 1000)
    got = torch.autograd.grad((scores.logps * weights).sum(), (hidden, weight))
    logps = (hidden @ weight.T).log_softmax(-1)
    picked = logps.gather(1, labels[:, None])[:, 0]
    torch.testing.assert_close(scores.logps, picked, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(scores.entropy, -(logps.exp() * logps).sum(-1), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(scores.is_top1, (logps.argmax(-1) == labels).float())
    for part, expected in zip(got, torch.autograd.grad((picked * weights).sum(), (hidden, weight)), strict=True):
        torch.testing.assert_close(part, expected, rtol=1e-3, atol=1e-3)


def logps_and_gradients(policy, batch, backend):
    policy.zero_grad()
    logps = tree_scores(policy, batch, backend).logps
    logps.sum().backward()
    return logps.detach().float(), torch.cat([p.grad.flatten().float() for p in policy.parameters()])


@pytest.mark.parametrize("backend", ["flex", "cascade", "gather"])
def test_compiled_layers_give_what_layers_give(backend):
    batch = pack(trees(), row_length=RowLengths()).to("cuda")
    plain, compiled, exact = model(), model(), model()
    exact.float()
    for one, name in ((plain, backend), (compiled, backend), (exact, "dense")):
        install(one, name)
    compile_layers(compiled)
    expected, expected_gradients = logps_and_gradients(exact, batch, "dense")
    rounded, rounded_gradients = logps_and_gradients(plain, batch, backend)
    logps, gradients = logps_and_gradients(compiled, batch, backend)
    assert (logps - expected).norm() <= 1.5 * (rounded - expected).norm()
    assert (gradients - expected_gradients).norm() <= 1.5 * (rounded_gradients - expected_gradients).norm()


def test_the_probe_takes_flex_for_compiled_layers_and_a_flash_backend_without():
    policy = model()
    assert choose_backend(policy, use=Use(policy.device, policy.dtype, compiled=True)).backend == "flex"
    assert choose_backend(policy, sample=lambda: pack(trees()).layout).backend in ("cascade", "gather")


def trainer(tmp_path, peft_config=None, **settings):
    from tokenizers import Tokenizer, models

    tokenizer = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.WordLevel({"<pad>": 0, "<eos>": 1}, unk_token="<pad>")),
                                        eos_token="<eos>", pad_token="<pad>")  # fmt: skip
    args = PreferenceConfig(
        str(tmp_path), per_device_train_batch_size=2, report_to="none", max_length=None, learning_rate=1e-4,
        monitor_3d=False, save_strategy="no", logging_steps=1, seed=0, **({"gradient_checkpointing": False} | settings),
    )  # fmt: skip
    data = Dataset.from_list([record_of(tree) for seed in range(6) for tree in trees(seed)])
    return PreferenceTrainer(model(), None, args, train_dataset=data, processing_class=tokenizer, peft_config=peft_config)


def losses(run):
    run.train()
    return torch.tensor([entry["loss"] for entry in run.state.log_history if "loss" in entry])


def test_compiling_and_liger_change_no_training(tmp_path):
    plain = losses(trainer(tmp_path / "plain", max_steps=6))
    compiled = losses(trainer(tmp_path / "compiled", max_steps=6, torch_compile=True))
    liger = losses(trainer(tmp_path / "liger", max_steps=6, use_liger_kernel=True))
    torch.testing.assert_close(compiled, plain, rtol=0, atol=0.02)
    torch.testing.assert_close(liger, plain, rtol=0, atol=0.02)


@pytest.mark.parametrize("settings", [{}, {"torch_compile": True, "max_tokens_per_batch": 1024}])
def test_a_step_does_not_wait_for_the_device(tmp_path, settings):
    run = trainer(tmp_path, max_steps=12, **settings)
    run.args.logging_steps = 100

    class Watch(TrainerCallback):
        def on_step_begin(self, args, state, control, **kwargs):
            torch.cuda.set_sync_debug_mode("warn" if state.global_step >= 4 else "default")

        def on_step_end(self, args, state, control, **kwargs):
            if state.global_step == state.max_steps:  # what follows is the log
                torch.cuda.set_sync_debug_mode("default")

    run.add_callback(Watch())
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        run.train()
    torch.cuda.set_sync_debug_mode("default")
    waits = [f"{w.filename}:{w.lineno}" for w in said if "called a synchronizing" in str(w.message)]
    assert not waits


@pytest.mark.parametrize("settings", [{"torch_compile": True}, {"use_liger_kernel": True}])
@pytest.mark.parametrize("checkpointing", [False, True])
def test_adapters_train_compiled_and_with_liger(tmp_path, settings, checkpointing):
    from peft import LoraConfig

    found = []
    for name, extra in (("plain", {}), ("fast", settings)):
        settings_of_run = {"max_steps": 4, "gradient_checkpointing": checkpointing, **extra}
        found.append(losses(trainer(tmp_path / name, peft_config=LoraConfig(r=4, target_modules="all-linear"), **settings_of_run)))
    torch.testing.assert_close(*found, rtol=0, atol=0.02)


@pytest.mark.parametrize("family", FAMILIES)
def test_each_family_gets_a_backend_that_gives_its_log_probs(family):
    policy = random_model(family).to("cuda", torch.bfloat16)
    exact = copy.deepcopy(policy).float()
    install(exact, "unshared")
    tree = TokenTree([list(range(5, 25)), [30, 31, 32], [40, 41], [50, 51, 52], [60, 61, 62, 63]], [-1, 0, 0, 1, 1], [(1, 2), (3, 4)],
                     [1.0] * 2, [0.0] * 2)  # fmt: skip
    result = choose_backend(policy)
    print(family, result.backend, result.passed_over)
    batch = pack([tree], row_length=RowLengths() if result.pads_rows else None).to("cuda")
    with torch.no_grad():
        got, expected = tree_scores(policy, batch, result.backend).logps, tree_scores(exact, pack([tree]).to("cuda"), "unshared").logps
    assert (got - expected).abs().mean() < 0.1


def test_a_copy_of_a_compiled_model_runs_its_own_weights():
    policy = model()
    choose_backend(policy, "flex")
    compile_layers(policy)
    batch = pack(trees(), row_length=RowLengths()).to("cuda")
    twin = copy.deepcopy(policy)
    with torch.no_grad():
        before = tree_scores(policy, batch, "flex").logps
        for parameter in twin.parameters():
            parameter.zero_()
        after, zeroed = tree_scores(policy, batch, "flex").logps, tree_scores(twin, batch, "flex").logps
    torch.testing.assert_close(after, before, rtol=0, atol=0)
    assert (zeroed - before).abs().max() > 0.1
