"""Small random models of a given architecture: what a rehearsal loads in the place of gigabytes."""

from __future__ import annotations

import contextlib
import json
import shutil
import zlib
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSequenceClassification
from transformers.utils import cached_file
from transformers.utils.logging import disable_progress_bar

from align.errors import AlignError
from align.models import load_tokenizer

HEADS, HEAD_DIM, EXPERTS, LAYERS = 4, 32, 4, 2  # heads of 32: the narrowest that vLLM's kernels take
HIDDEN = HEADS * HEAD_DIM

SIZES = {
    "hidden_size": HIDDEN, "intermediate_size": 2 * HIDDEN, "ffn_dim": 2 * HIDDEN, "word_embed_proj_dim": HIDDEN, "head_dim": HEAD_DIM,
    "num_attention_heads": HEADS, "moe_intermediate_size": HIDDEN, "shared_expert_intermediate_size": HIDDEN,
    "num_experts": EXPERTS, "num_local_experts": EXPERTS, "n_routed_experts": EXPERTS, "num_experts_per_tok": 2, "n_group": 1,
    "topk_group": 1,
    "q_lora_rank": 32, "kv_lora_rank": 32, "qk_nope_head_dim": HEAD_DIM, "qk_rope_head_dim": 16, "v_head_dim": HEAD_DIM,
}  # fmt: skip
"""What a configuration's widths become, where it has them and gives them a value; GPT-2's and others' names lead to these."""


def small_model(source: str, folder: Path, *, reward: bool = False, revision: str | None = None, trust_remote_code: bool = False) -> int:
    """Save a small random model of a model's architecture, with the model's own tokenizer. Reads no weights.

    Args:
        source: a folder, of an adapter too (its base's architecture is taken), or a name on the hub.
        folder: where it goes.
        reward: a model that gives a text a number, instead of one that writes.
        revision: as for `from_pretrained`.
        trust_remote_code: as for `from_pretrained`.

    Returns:
        Its number of parameters.

    Raises:
        AlignError: there is no such model, or its architecture cannot be made smaller.
    """
    options: dict[str, Any] = {"revision": revision, "trust_remote_code": trust_remote_code}
    try:
        config = AutoConfig.from_pretrained(_base(source), **options)
    except (OSError, ValueError) as error:
        raise AlignError(f"'{source}': {str(error).splitlines()[0]}") from error
    tokenizer = load_tokenizer(source, key="model", **options)
    shrink(config, len(tokenizer))
    kind: Any = AutoModelForSequenceClassification if reward else AutoModelForCausalLM
    torch.manual_seed(zlib.crc32(source.encode()))  # a policy and its reference are not the same model
    try:
        model = kind.from_config(config, trust_remote_code=trust_remote_code, dtype=torch.float32)
    except Exception as error:
        raise AlignError(
            f"'{source}': a small model of this architecture ({config.model_type}) cannot be made "
            f"({type(error).__name__}: {str(error).splitlines()[0]}): rehearse with the model itself, --rehearse real"
        ) from error
    disable_progress_bar()
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    if generation := cached_file(source, "generation_config.json", revision=revision, _raise_exceptions_for_missing_entries=False,
                                 _raise_exceptions_for_connection_errors=False):  # fmt: skip
        shutil.copyfile(generation, folder / "generation_config.json")  # as it is: the tokens that end a response stand there
    return int(model.num_parameters())


def shrink(config: Any, tokens: int) -> None:
    """Make a configuration a small one of the same architecture, in place: heads stay grouped, and every type of layer stays.

    Args:
        config: of transformers; what it says of the context's length, windows, scales and special tokens stays.
        tokens: the tokenizer's; embeddings of tokens that it does not have are left out.
    """
    config = config.get_text_config()
    groups = _groups(config)
    _keep_vocabulary(config, tokens)
    _keep_layers(config)
    for name, size in SIZES.items():
        if not isinstance(getattr(config, name, None), (list, tuple)):
            _set(config, name, size)
    for name in ("num_key_value_heads", "num_kv_heads"):
        _set(config, name, max(1, HEADS // groups))
    if getattr(config, "qk_rope_head_dim", None):  # latent attention: `head_dim` is the part that is rotated
        _set(config, "head_dim", config.qk_rope_head_dim)
    _set(config, "rotary_dim", HEAD_DIM)
    _set(config, "n_inner", None)
    _keep_rope(config)
    if hasattr(config, "quantization_config"):
        del config.quantization_config


def _set(config: Any, name: str, value: Any) -> None:
    """Set what the configuration has and gives a value; what it only computes from others follows these."""
    if getattr(config, name, None) is not None:
        with contextlib.suppress(AttributeError):
            setattr(config, name, value)


def _base(source: str) -> str:
    adapter = Path(source) / "adapter_config.json"
    return str(json.loads(adapter.read_text(encoding="utf-8"))["base_model_name_or_path"]) if adapter.exists() else source


def _groups(config: Any) -> int:
    """Attention heads that share keys and values."""
    heads = getattr(config, "num_attention_heads", None)
    shared = getattr(config, "num_key_value_heads", None) or getattr(config, "num_kv_heads", None) or heads
    return int(heads // shared) if isinstance(heads, int) and isinstance(shared, int) and shared else 1


def _keep_vocabulary(config: Any, tokens: int) -> None:
    """As many embeddings as the tokenizer has tokens, and at least those that the configuration names by number."""
    names = ("bos_token_id", "eos_token_id", "pad_token_id", "decoder_start_token_id")
    values = [getattr(config, name, None) for name in names]
    ids = [id for value in values for id in (value if isinstance(value, (list, tuple)) else [value]) if isinstance(id, int)]
    needed = max([tokens, *(id + 1 for id in ids)])
    config.vocab_size = min(config.vocab_size, -(-needed // 64) * 64)


def _keep_layers(config: Any) -> None:
    """One layer of each type, two at least."""
    types = list(getattr(config, "layer_types", None) or [])
    firsts = [types.index(kind) for kind in dict.fromkeys(types)]
    others = [layer for layer in range(len(types)) if layer not in firsts]
    kept = sorted([*firsts, *others[: max(0, LAYERS - len(firsts))]])
    _set(config, "layer_types", [types[layer] for layer in kept])
    _set(config, "num_hidden_layers", len(kept) or LAYERS)
    for name, value in {"first_k_dense_replace": 1, "max_window_layers": LAYERS, "num_kv_shared_layers": 0}.items():
        _set(config, name, value)


def _keep_rope(config: Any) -> None:
    """Factors for each pair of a head's dimensions (LongRoPE), as many as a narrow head has."""
    for name in ("rope_parameters", "rope_scaling"):
        rope = getattr(config, name, None)
        if isinstance(rope, dict):
            for part in (rope, *(value for value in rope.values() if isinstance(value, dict))):
                for factors in ("long_factor", "short_factor"):
                    if isinstance(part.get(factors), list):
                        share = float(part.get("partial_rotary_factor", getattr(config, "partial_rotary_factor", 1.0)) or 1.0)
                        part[factors] = part[factors][: int(HEAD_DIM * share) // 2]
