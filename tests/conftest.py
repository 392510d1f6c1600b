"""Small real parts for tests: tokenizers trained on the spot, random models of many families, real data where it is."""

from __future__ import annotations

import contextlib
import importlib.util
import io
import os
import shutil
import subprocess
import sys
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TQDM_DISABLE", "1")
os.environ.setdefault("WANDB_MODE", "offline")

import pytest
import torch
import transformers as T
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
from tokenizers import trainers as token_trainers

from align.cli import main

TEXTS = [
    "What is the sum of two and three? It is five, of course.",
    "Question: how many apples are left? Answer: there are 17 apples left, because 20 - 3 = 17.",
    "First we look at it. Then we see what follows. So the answer is 42.",
]
TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def pytest_ignore_collect(collection_path):
    """Helpers of tests are no tests: `--doctest-modules` would import them, and with them what a fresh environment may lack (DeepSpeed)."""
    return True if collection_path.suffix == ".py" and not collection_path.name.startswith("test_") else None


@pytest.hookimpl(tryfirst=True)  # before `-m` chooses
def pytest_collection_modifyitems(items):
    """Tests that end a shared engine by force come last; a program runs at the strongest isolation and, in turn, at one of the others."""
    items.sort(key=lambda item: item.get_closest_marker("last") is not None)
    for item in items:
        if item.get_closest_marker("levels_in_turn"):
            level, turn = (item.callspec.indices[name] for name in ("mechanism", "program"))
            if level not in (0, 1 + turn % (len(MECHANISMS) - 1)):
                item.add_marker(pytest.mark.exhaustive)
        if item.get_closest_marker("gpu") and not torch.cuda.is_available():
            item.add_marker(pytest.mark.skip(reason="needs a GPU"))


@pytest.fixture(autouse=True)
def unchanged_environment():
    """A test leaves the environment as it was: TrainingArguments and accelerate write their settings there, for processes and all that follow."""
    before = dict(os.environ)
    yield
    for name in os.environ.keys() - before.keys():
        del os.environ[name]
    os.environ.update(before)


def align(*arguments, timeout: float = 600, **options) -> subprocess.CompletedProcess[str]:
    """The command line in a process of its own."""
    command = [sys.executable, "-m", "align.cli", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=timeout, **options)


def align_here(*arguments) -> subprocess.CompletedProcess[str]:
    """The command line in this process, for mistakes that are found before anything starts: imports are most of what they cost."""
    out, error = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(error):
        try:
            status = main(list(map(str, arguments)))
        except SystemExit as exit:
            status = exit.code
    return subprocess.CompletedProcess(arguments, status, out.getvalue(), error.getvalue())


def kill_at_random(recipe, folder, count: int) -> str:
    """Kill a run so many times, compare it with one that nothing disturbed, and return what that printed. ALIGN_KILLS says how many times
    instead: `scripts/test.sh --exhaustive` sets 20."""
    count = int(os.environ.get("ALIGN_KILLS", count))
    command = [sys.executable, ROOT / "scripts" / "kill_run.py", recipe, "--kills", count, "--folder", folder]
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True, timeout=1800)
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"{count} kills" in done.stdout
    return done.stdout


def byte_level_tokenizer(bos: bool = False) -> T.PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer with a chat template; with `bos`, one that begins every text with a token."""
    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|bos|>"]
    core.train_from_iterator(
        TEXTS * 5, token_trainers.BpeTrainer(vocab_size=400, special_tokens=special, initial_alphabet=pre_tokenizers.ByteLevel.alphabet())
    )
    if bos:
        core.post_processor = processors.TemplateProcessing("<|bos|> $A", special_tokens=[("<|bos|>", 3)])
    return T.PreTrainedTokenizerFast(
        tokenizer_object=core,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        bos_token="<|bos|>" if bos else None,
        chat_template=TEMPLATE,
    )


def metaspace_tokenizer() -> T.PreTrainedTokenizerFast:
    """A unigram tokenizer that marks blanks, as SentencePiece does."""
    core = Tokenizer(models.Unigram())
    core.pre_tokenizer = pre_tokenizers.Metaspace()
    core.decoder = decoders.Metaspace()
    core.train_from_iterator(
        TEXTS * 5, token_trainers.UnigramTrainer(vocab_size=120, special_tokens=["<unk>", "<pad>", "</s>"], unk_token="<unk>")
    )
    return T.PreTrainedTokenizerFast(tokenizer_object=core, eos_token="</s>", pad_token="<pad>", unk_token="<unk>")


@pytest.fixture(scope="session")
def tokenizer() -> T.PreTrainedTokenizerFast:
    return byte_level_tokenizer()


COMMON = {
    "vocab_size": 400, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2,
    "max_position_embeddings": 512, "pad_token_id": 0, "eos_token_id": 2, "bos_token_id": None,
}  # fmt: skip
GPT2 = {"vocab_size": 400, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 512, "eos_token_id": 2, "bos_token_id": None}
FAMILIES = {
    "llama": lambda: T.LlamaForCausalLM(T.LlamaConfig(**COMMON)),
    "qwen2": lambda: T.Qwen2ForCausalLM(T.Qwen2Config(**COMMON)),
    "qwen3": lambda: T.Qwen3ForCausalLM(T.Qwen3Config(**COMMON, head_dim=8)),
    "mistral-window": lambda: T.MistralForCausalLM(T.MistralConfig(**COMMON, sliding_window=6)),
    "gemma2": lambda: T.Gemma2ForCausalLM(T.Gemma2Config(**COMMON, head_dim=8, sliding_window=6)),
    "gemma2-eager": lambda: T.Gemma2ForCausalLM._from_config(
        T.Gemma2Config(**COMMON, head_dim=8, sliding_window=6, attn_logit_softcapping=2.0), attn_implementation="eager"
    ),
    "gemma3": lambda: T.Gemma3ForCausalLM(T.Gemma3TextConfig(**COMMON, head_dim=8, sliding_window=6)),
    "gpt2": lambda: T.GPT2LMHeadModel(T.GPT2Config(**GPT2)),
    "gpt-neox": lambda: T.GPTNeoXForCausalLM(
        T.GPTNeoXConfig(vocab_size=400, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4)
    ),
    "granite": lambda: T.GraniteForCausalLM(T.GraniteConfig(**COMMON, logits_scaling=4.0)),
    "cohere2": lambda: T.Cohere2ForCausalLM(T.Cohere2Config(**COMMON, sliding_window=6)),
    "mixtral": lambda: T.MixtralForCausalLM(T.MixtralConfig(**COMMON, num_local_experts=4)),
    "gpt-oss": lambda: T.GptOssForCausalLM(
        T.GptOssConfig(**COMMON, head_dim=8, num_local_experts=4, num_experts_per_tok=2, sliding_window=6)
    ),
    "bloom": lambda: T.BloomForCausalLM(T.BloomConfig(vocab_size=400, hidden_size=32, n_layer=2, n_head=4)),
    "lfm2": lambda: T.Lfm2ForCausalLM(T.Lfm2Config(**COMMON, layer_types=["conv", "full_attention"])),
}
FALL_BACK = {"bloom", "lfm2"}


def random_model(family: str = "llama", seed: int = 0, scale: float = 0.15) -> T.PreTrainedModel:
    """A small model with weights large enough that every part of it shows in its log-probs."""
    torch.manual_seed(seed)
    model = FAMILIES[family]().float().eval()
    for parameter in model.parameters():
        if parameter.dim() > 1:
            torch.nn.init.normal_(parameter, std=scale)
    return model


ROOT = Path(__file__).parent.parent
sys.path.append(str(ROOT / "scripts"))  # some of which tests use
SHARED = ROOT.parent / "shared"


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Real data beside the checkout; the project itself ships none."""
    if not (SHARED / "data").is_dir():
        pytest.skip("the folder with real data (../shared/data) is not here")
    return SHARED / "data"


@pytest.fixture
def settings(tmp_path: Path) -> dict[str, object]:
    """Trainer settings for exact, quiet CPU runs."""
    return exact_settings(tmp_path)


def exact_settings(folder: Path) -> dict[str, object]:
    """What the fixture `settings` gives, with the output below a folder."""
    return {
        "output_dir": str(folder / "out"), "use_cpu": True, "bf16": False, "report_to": "none", "gradient_checkpointing": False,
        "max_length": None, "save_strategy": "no", "disable_tqdm": True, "monitor_3d": False,
    }  # fmt: skip


def small_llama(seed: int = 0) -> T.PreTrainedModel:
    """A model that vLLM's CPU kernels take: heads of 32."""
    torch.manual_seed(seed)
    config = T.LlamaConfig(
        vocab_size=400, hidden_size=64, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2, num_key_value_heads=2,
        max_position_embeddings=256, pad_token_id=0, eos_token_id=2, bos_token_id=None,
    )  # fmt: skip
    model = T.LlamaForCausalLM(config).eval()
    for parameter in model.parameters():
        if parameter.dim() > 1:
            torch.nn.init.normal_(parameter, std=0.1)
    return model


@pytest.fixture(scope="session")
def base_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("base")
    small_llama().save_pretrained(folder)
    byte_level_tokenizer().save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def adapter_folder(base_folder, tmp_path_factory):
    from peft import LoraConfig, get_peft_model

    folder = tmp_path_factory.mktemp("adapter")
    model = get_peft_model(T.AutoModelForCausalLM.from_pretrained(base_folder), LoraConfig(r=4, target_modules="all-linear"))
    torch.manual_seed(1)
    for name, parameter in model.named_parameters():
        if "lora" in name:
            torch.nn.init.normal_(parameter, std=0.1)
    model.save_pretrained(folder)
    byte_level_tokenizer().save_pretrained(folder)
    return folder


needs_vllm = pytest.mark.skipif(importlib.util.find_spec("vllm") is None, reason="vLLM is not installed")


@pytest.fixture(scope="session")
def vllm_engine(adapter_folder):
    """vLLM with the adapter loaded; `base_engine` is the same without it."""
    from data_pipelines.rollouts.vllm_engine import VllmEngine

    engine = VllmEngine(adapter_folder, dtype="float32", options={"max_model_len": 256, "max_num_seqs": 64})
    yield engine
    engine.close()


@pytest.fixture
def base_engine(vllm_engine, monkeypatch):
    monkeypatch.setattr(vllm_engine, "_adapter", None)
    return vllm_engine


@pytest.fixture(scope="session")
def server(base_folder):
    from data_pipelines.rollouts.server_engine import serve

    with serve(base_folder, dtype="float32", options={"max_model_len": 256, "max_num_seqs": 64}) as url:
        yield url


@pytest.fixture
def offline_wandb(tmp_path, monkeypatch):
    """Real wandb, offline, its files in the folder that this gives. It reads the environment once, so it is ended before and after."""
    wandb = pytest.importorskip("wandb")
    wandb.teardown()
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_DIR", str(tmp_path))
    yield tmp_path / "wandb"
    wandb.teardown()


@pytest.fixture(scope="session")
def browser():
    """A real headless Chromium."""
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    program = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if program is None:
        pytest.skip("Chromium is not installed")
    with playwright.sync_playwright() as driver:
        found = driver.chromium.launch(executable_path=program, args=["--no-sandbox"])
        yield found
        found.close()


def open_page(browser, path, width=1280):
    """Open a report as a person would: it must be one small file that asks for nothing, complains of nothing, and draws every chart."""
    assert path.stat().st_size < 5_000_000
    page = browser.new_page(viewport={"width": width, "height": 900})
    said = []
    page.on("console", lambda message: said.append(message.text))
    page.on("pageerror", lambda error: said.append(str(error)))
    page.on("request", lambda request: said.append(request.url) if not request.url.startswith(("file:", "data:")) else None)
    page.goto(path.as_uri())
    assert said == []
    assert page.evaluate("document.documentElement.scrollWidth") <= width, "the page is wider than its window"
    charts = page.locator("svg.chart")
    for place in range(charts.count()):
        box = charts.nth(place).bounding_box()
        assert box["width"] > 150
        assert box["height"] > 40
        assert charts.nth(place).locator("path").count() > 3
    return page


MECHANISMS = ("bubblewrap", "unshare", "filters", "limits")


@pytest.fixture(scope="session")
def reasons():
    """Why a mechanism of isolation is not to be had here, by name; empty where it is."""
    from data_pipelines.code_execution.sandbox import available

    return available()


@pytest.fixture(scope="module", params=MECHANISMS)
def mechanism(request, reasons):
    if reasons[request.param]:
        pytest.skip(f"{request.param}: {reasons[request.param]}")
    return request.param


@pytest.fixture(scope="module")
def sandbox(mechanism):
    """One sandbox for each mechanism of this machine."""
    from data_pipelines.code_execution.sandbox import Sandbox
    from data_pipelines.code_execution.sandbox.isolation import Isolation

    with Sandbox(Isolation(mechanism), workers=1) as box:
        yield box


@pytest.fixture(scope="session")
def best():
    """The strongest isolation of this machine."""
    from data_pipelines.code_execution.sandbox import Sandbox

    with Sandbox(workers=1) as box:
        yield box
