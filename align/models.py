"""Loading models and tokenizers, with errors that a user can act on."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import struct
from pathlib import Path
from typing import Any

from filelock import FileLock
from safetensors import SafetensorError
from transformers import AutoModelForCausalLM, AutoTokenizer, BitsAndBytesConfig, PretrainedConfig, PreTrainedTokenizerBase
from transformers.utils.logging import disable_progress_bar

from align import hub
from align.errors import AlignError
from align.files import put


def load_model(
    source: str, *, dtype: str = "auto", revision: str | None = None, trust_remote_code: bool = False,
    attn_implementation: str | None = None, quantization: str | None = None, key: str = "model.name_or_path",
    kind: Any = AutoModelForCausalLM,
) -> Any:  # fmt: skip
    """Load a model; a folder that holds a PEFT adapter gives the model it was trained on with the adapter merged in.

    Args:
        source: a folder, or a name on the hub.
        dtype: as for `from_pretrained`.
        revision: as for `from_pretrained`.
        trust_remote_code: as for `from_pretrained`.
        attn_implementation: as for `from_pretrained`.
        quantization: "nf4" or "int8", the linear layers' weights; they cannot be trained then.
        key: the recipe's key, for errors.
        kind: the auto class.

    Raises:
        AlignError: there is no such model, or it cannot be loaded.
    """
    if not Path(source).exists():
        hub.offline_where_unreachable()
    disable_progress_bar()  # loading and saving weights need none
    options: dict[str, Any] = {"dtype": dtype, "revision": revision, "trust_remote_code": trust_remote_code}
    if attn_implementation:
        options["attn_implementation"] = attn_implementation
    if quantization:
        options["quantization_config"] = _quantized(quantization, dtype)
    try:
        if (Path(source) / "adapter_config.json").exists():
            from peft import PeftModel

            options["revision"] = None  # `revision` would be the adapter's; which one of its base it was trained on, it does not say
            merged = PeftModel.from_pretrained(kind.from_pretrained(base_of(source), **options), source).merge_and_unload()
            return merged if quantization else merged.requires_grad_(True)  # PEFT has frozen the base
        return kind.from_pretrained(source, **options)
    except SafetensorError as error:
        reason = f"its weights cannot be read ({error}): they are damaged, cut off, or a pointer of Git LFS: fetch them again"
        raise AlignError(f"{key} '{source}': {reason}") from error
    except (OSError, ValueError, KeyError, ImportError) as error:
        raise AlignError(f"{key} '{source}': {hub.hint(error)}") from error


def whole_model(source: str, folder: Path, **options: Any) -> str:
    """A model that a new adapter can be trained on and refer to: `source` itself, or what its adapter and base make together.

    An adapter that is trained on a merged model and saved names a base, and is right on that base alone. So the merged model is written
    down; processes that start together wait for the first of them.

    Args:
        source: a folder, or a name on the hub.
        folder: where a merged model goes, named for its adapter's content.
        options: as for `load_model`; quantization waits until the merged model is loaded.

    Raises:
        AlignError: as `load_model`.
    """
    adapter = Path(source)
    if not (adapter / "adapter_config.json").exists():
        return source
    digest = hashlib.sha256(str(sorted(options.items())).encode())
    for path in sorted(adapter.glob("adapter_*")):
        digest.update(path.read_bytes())
    target = folder / f"base-{digest.hexdigest()[:12]}"
    folder.mkdir(parents=True, exist_ok=True)
    with FileLock(folder / "base.lock"):
        if not target.exists():
            scratch = target.with_name(f"{target.name}.tmp")
            load_model(source, **{**options, "quantization": None}).save_pretrained(scratch)
            put(scratch, target)
    return str(target.resolve())


def _tokenizer_error(source: str, error: Exception) -> str:
    """Why there is no tokenizer: transformers' message about a missing file lists, over several lines, what it could have been made of."""
    if Path(source).is_dir() and "tokenizer" in str(error) and not any(Path(source).glob("tokenizer*")):
        return "there is no tokenizer in this folder (no tokenizer.json): save it beside the model with tokenizer.save_pretrained"
    if isinstance(error, json.JSONDecodeError):
        return f"a file of its tokenizer is damaged: it is not JSON ({error})"
    return hub.hint(error)


def _quantized(kind: str, dtype: str) -> BitsAndBytesConfig:
    """bitsandbytes' settings; computing goes on in the type that the weights would have."""
    if importlib.util.find_spec("bitsandbytes") is None:
        raise AlignError(f"model.quantization is '{kind}': it needs bitsandbytes (pip install bitsandbytes)")
    if kind == "int8":
        return BitsAndBytesConfig(load_in_8bit=True)
    compute = None if dtype == "auto" else dtype
    return BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True, bnb_4bit_compute_dtype=compute)


def base_of(source: str) -> str:
    """The model that an adapter's folder was trained on; of any other source, the source itself."""
    adapter = Path(source) / "adapter_config.json"
    return str(json.loads(adapter.read_text(encoding="utf-8"))["base_model_name_or_path"]) if adapter.exists() else source


def config_of(source: str) -> dict[str, Any]:
    """A model's configuration as plain data, an adapter's base's; empty where it cannot be read."""
    try:
        config: dict[str, Any] = PretrainedConfig.get_config_dict(base_of(source))[0]
    except (OSError, ValueError):
        return {}
    return config | config["text_config"] if isinstance(config.get("text_config"), dict) else config


def saved_dtype(source: str) -> str | None:
    """The precision that a model's weights were saved in, such as "float32"; None where nothing says it.

    Its configuration says it; else, as in `from_pretrained`, the first weights of a local folder do.

    Args:
        source: a folder (an adapter's as well: then its base's is meant) or a name on the hub.
    """
    config = config_of(source)
    named = config.get("dtype") or config.get("torch_dtype")
    if named is not None:
        return str(named).removeprefix("torch.")
    for file in sorted(Path(base_of(source)).glob("*.safetensors")):
        with open(file, "rb") as weights:
            header = json.loads(weights.read(struct.unpack("<Q", weights.read(8))[0]))
        for name, entry in header.items():
            if name != "__metadata__" and entry["dtype"] in _SAFETENSORS:
                return _SAFETENSORS[entry["dtype"]]
    return None


_SAFETENSORS = {"F32": "float32", "BF16": "bfloat16", "F16": "float16"}


def load_tokenizer(
    source: str, *, revision: str | None = None, trust_remote_code: bool = False, chat_template: str | None = None,
    key: str = "model.name_or_path",
) -> PreTrainedTokenizerBase:  # fmt: skip
    """Load a model's tokenizer.

    Args:
        source: as for `load_model`.
        revision: as for `load_model`.
        trust_remote_code: as for `load_model`.
        key: as for `load_model`.
        chat_template: a Jinja file that takes the place of the tokenizer's own.

    Raises:
        AlignError: there is none, or the template's file does not exist.
    """
    try:
        if not Path(source).exists():
            hub.offline_where_unreachable()
        tokenizer = AutoTokenizer.from_pretrained(source, revision=revision, trust_remote_code=trust_remote_code)
    except (OSError, ValueError, KeyError, ImportError) as error:
        raise AlignError(f"{key} '{source}': {_tokenizer_error(source, error)}") from error
    if chat_template:
        template = Path(chat_template)
        if not template.is_file():
            raise AlignError(f"model.chat_template '{template}': no such file")
        tokenizer.chat_template = template.read_text(encoding="utf-8")
    return tokenizer
