"""Stand-ins for what the shipped recipes name on the hub, laid out as the hub's own caches: found by name, without a network.

`fill(folder)` makes both caches; `variables(folder)` are the environment variables that lead to them. Models have the real ones'
configuration and no weights, tokenizers a small vocabulary, the real ones' special tokens and chat templates of the same form.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import transformers as T
from datasets import DatasetInfo, Features, SplitDict, SplitInfo
from datasets.arrow_writer import ArrowWriter
from datasets.naming import camelcase_to_snakecase
from hub_records import ASKED, DATA_SETS, PROGRAMS, Rows
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from tokenizers import trainers as token_trainers

REVISION = "0123456789abcdef0123456789abcdef01234567"

LLAMA3 = (
    "{% set offset = 1 if messages[0]['role'] == 'system' else 0 %}{{ bos_token }}{% for m in messages %}"
    "{% if (m['role'] == 'user') != (loop.index0 % 2 == offset) %}{{ raise_exception('user and assistant must take turns') }}{% endif %}"
    "{{ '<|start_header_id|>' + m['role'] + '<|end_header_id|>\n\n' + m['content'] | trim + '<|eot_id|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}"
)
ZEPHYR = (
    "{% for m in messages %}\n{% if m['role'] in ('user', 'system', 'assistant') %}\n{{ '<|' + m['role'] + '|>\n' + m['content'] + eos_token }}"
    "\n{% endif %}\n{% if loop.last and add_generation_prompt %}\n{{ '<|assistant|>' }}\n{% endif %}\n{% endfor %}"
)
QWEN = (
    "{% if messages[0]['role'] != 'system' %}{{ '<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n' }}{% endif %}"
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
DEEPSEEK = (
    "{% if messages[0]['role'] != 'system' %}{{ bos_token + 'You are a programming assistant.\n' }}{% endif %}"
    "{% for m in messages %}{% if m['role'] == 'system' %}{{ m['content'] + '\n' }}{% elif m['role'] == 'user' %}"
    "{{ '### Instruction:\n' + m['content'] + '\n' }}{% else %}{{ '### Response:\n' + m['content'] + '\n<|EOT|>\n' }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '### Response:\n' }}{% endif %}"
)
BYTES = [f"<0x{number:02X}>" for number in range(256)]


def _texts() -> list[str]:
    return [
        *(text for one in ASKED for text in one),
        *(text for _, code, tests in PROGRAMS for text in (code, *tests)),
        "Step 1: So the final",
    ]


def _byte_level(specials: list[str], bos: str | None, **options: Any) -> T.PreTrainedTokenizerFast:
    """As Llama 3, Qwen and DeepSeek have it: bytes, no blank in front."""
    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    core.train_from_iterator(
        _texts(), token_trainers.BpeTrainer(show_progress=False, vocab_size=600, special_tokens=specials, initial_alphabet=alphabet)
    )
    if bos:
        core.post_processor = processors.TemplateProcessing(f"{bos} $A", special_tokens=[(bos, core.token_to_id(bos))])
    return T.PreTrainedTokenizerFast(tokenizer_object=core, bos_token=bos, **options)


def _sentence_piece(**options: Any) -> T.PreTrainedTokenizerFast:
    """As Llama 2 and Mistral have it: a blank put in front, unknown characters as bytes, a token that begins every text."""
    core = Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>", fuse_unk=True))
    core.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    core.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)])
    core.train_from_iterator(
        _texts(), token_trainers.BpeTrainer(show_progress=False, vocab_size=640, special_tokens=["<unk>", "<s>", "</s>"])
    )
    known = json.loads(core.to_str())
    known["model"]["vocab"] |= {byte: len(known["model"]["vocab"]) + number for number, byte in enumerate(BYTES)}  # no special tokens
    core = Tokenizer.from_str(json.dumps(known))
    core.post_processor = processors.TemplateProcessing("<s> $A", special_tokens=[("<s>", core.token_to_id("<s>"))])
    return T.PreTrainedTokenizerFast(tokenizer_object=core, bos_token="<s>", eos_token="</s>", unk_token="<unk>", **options)


def _llama3(pad: str | None = None) -> T.PreTrainedTokenizerFast:
    specials = ["<|begin_of_text|>", "<|end_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>", "[PAD]"]
    return _byte_level(specials, "<|begin_of_text|>", eos_token="<|end_of_text|>", pad_token=pad, chat_template=LLAMA3)


def _qwen(eos: str) -> T.PreTrainedTokenizerFast:
    specials = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    return _byte_level(specials, None, eos_token=eos, pad_token="<|endoftext|>", chat_template=QWEN)


def _deepseek() -> T.PreTrainedTokenizerFast:
    bos, end = "<｜begin▁of▁sentence｜>", "<｜end▁of▁sentence｜>"
    return _byte_level([bos, end, "<|EOT|>"], bos, eos_token="<|EOT|>", pad_token=end, chat_template=DEEPSEEK)


LLAMA3_8B = {
    "vocab_size": 128256, "hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32, "num_attention_heads": 32,
    "num_key_value_heads": 8, "max_position_embeddings": 8192, "rope_parameters": {"rope_type": "default", "rope_theta": 500000.0},
}  # fmt: skip
LLAMA2_7B = {"vocab_size": 32000, "max_position_embeddings": 4096}
MISTRAL_7B = {"vocab_size": 32000, "sliding_window": 4096, "max_position_embeddings": 32768}
QWEN_7B = {
    "vocab_size": 152064, "hidden_size": 3584, "intermediate_size": 18944, "num_hidden_layers": 28, "num_attention_heads": 28,
    "num_key_value_heads": 4, "max_position_embeddings": 32768, "max_window_layers": 28, "sliding_window": 131072,
}  # fmt: skip
DEEPSEEK_7B = {
    "vocab_size": 32256, "intermediate_size": 11008, "max_position_embeddings": 16384,
    "rope_parameters": {"rope_type": "linear", "factor": 4.0, "rope_theta": 100000.0},
}  # fmt: skip


def _llama(tokenizer: T.PreTrainedTokenizerFast, sizes: dict[str, Any], kind: str = "LlamaForCausalLM", **more: Any) -> tuple[Any, Any]:
    return T.LlamaConfig(**sizes, **_ids(tokenizer), architectures=[kind], **more), tokenizer


def _mistral(tokenizer: T.PreTrainedTokenizerFast) -> tuple[Any, Any]:
    return T.MistralConfig(**MISTRAL_7B, **_ids(tokenizer), architectures=["MistralForCausalLM"]), tokenizer


def _qwen2(tokenizer: T.PreTrainedTokenizerFast) -> tuple[Any, Any]:
    return T.Qwen2Config(**QWEN_7B, **_ids(tokenizer), architectures=["Qwen2ForCausalLM"]), tokenizer


def _ids(tokenizer: T.PreTrainedTokenizerFast) -> dict[str, Any]:
    return {"bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id}


MODELS = {
    "princeton-nlp/Llama-3-Base-8B-SFT": lambda: _llama(_llama3("<|end_of_text|>"), LLAMA3_8B),
    "princeton-nlp/Llama-3-Base-8B-SFT-DPO": lambda: _llama(_llama3("<|end_of_text|>"), LLAMA3_8B),
    "meta-llama/Llama-3.1-8B-Instruct": lambda: _llama(_llama3("<|eot_id|>"), LLAMA3_8B),
    "Skywork/Skywork-Reward-Llama-3.1-8B-v0.2": lambda: _llama(
        _llama3("[PAD]"), LLAMA3_8B, "LlamaForSequenceClassification", id2label={0: "LABEL_0"}
    ),
    "HuggingFaceH4/zephyr-7b-beta": lambda: _mistral(_sentence_piece(pad_token="</s>", chat_template=ZEPHYR)),
    "HuggingFaceH4/mistral-7b-sft-beta": lambda: _mistral(_sentence_piece(pad_token="</s>", chat_template=ZEPHYR)),
    "alignment-handbook/zephyr-7b-sft-full": lambda: _mistral(_sentence_piece(pad_token="</s>", chat_template=ZEPHYR)),
    "mistralai/Mistral-7B-v0.1": lambda: _mistral(_sentence_piece()),
    "meta-llama/Llama-2-7b-hf": lambda: _llama(_sentence_piece(), LLAMA2_7B),
    "Qwen/Qwen2.5-7B": lambda: _qwen2(_qwen("<|endoftext|>")),
    "Qwen/Qwen2.5-7B-Instruct": lambda: _qwen2(_qwen("<|im_end|>")),
    "Qwen/Qwen2.5-Coder-7B-Instruct": lambda: _qwen2(_qwen("<|im_end|>")),
    "deepseek-ai/deepseek-coder-6.7b-instruct": lambda: _llama(_deepseek(), DEEPSEEK_7B),
}
"""Name on the hub → configuration and tokenizer."""


def variables(folder: Path) -> dict[str, str]:
    """The environment in which these stand-ins are the hub."""
    offline = dict.fromkeys(("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE", "TRANSFORMERS_OFFLINE"), "1")
    return {"HF_HUB_CACHE": str(folder / "hub"), "HF_DATASETS_CACHE": str(folder / "datasets"), **offline}


def fill(folder: Path) -> Path:
    """Make every stand-in."""
    for name, make in MODELS.items():
        place = folder / "hub" / f"models--{name.replace('/', '--')}"
        config, tokenizer = make()
        config.save_pretrained(place / "snapshots" / REVISION)
        tokenizer.save_pretrained(place / "snapshots" / REVISION)
        (place / "refs").mkdir()
        (place / "refs" / "main").write_text(REVISION)
    for (name, subset), rows in DATA_SETS.items():
        _data_set(folder / "datasets", name, subset, *rows())
    return folder


def _data_set(folder: Path, name: str, subset: str, features: Features, rows: Rows) -> None:
    """A data set as `datasets` keeps it once it was loaded from the hub."""
    owner, _, short = name.partition("/")
    snake = camelcase_to_snakecase(short)
    place = folder / f"{owner}___{snake}" / subset / "0.0.0" / REVISION
    place.mkdir(parents=True)
    splits = SplitDict(dataset_name=snake)
    for split, records in rows.items():
        with ArrowWriter(features=features, path=str(place / f"{snake}-{split}.arrow")) as writer:
            for record in records:
                writer.write(record)
            examples, size = writer.finalize()
        splits.add(SplitInfo(split, size, examples, dataset_name=snake))
    info = DatasetInfo(features=features, splits=splits, config_name=subset, dataset_name=snake, builder_name="parquet", version="0.0.0")
    info.write_to_directory(str(place))
    assert json.loads((place / "dataset_info.json").read_text())["config_name"] == subset
