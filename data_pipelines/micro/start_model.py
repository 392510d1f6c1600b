"""The micro start model: a small Llama trained from scratch on sums, stopped early so that there is something to gain."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
from tqdm import tqdm
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from data_pipelines.micro.sums import ALPHABET, Sum, problems, share_right

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class StartModel:
    """How the start model is made. Its seed fixes weights and data.

    Attributes:
        stop_at: held-out greedy accuracy at which training stops, so that there is something left to gain.
        max_steps, batch_size: optimizer steps at most, problems a step.
        learning_rate: constant, after a warm-up of 30 steps.
    """

    seed: int = 0
    stop_at: float = 0.5
    max_steps: int = 1000
    batch_size: int = 64
    learning_rate: float = 2e-3
    hidden_size: int = 128
    layers: int = 4
    heads: int = 4


def tokenizer() -> PreTrainedTokenizerFast:
    """One token a character, and padding and end."""
    vocab = {token: i for i, token in enumerate(["<pad>", "<eos>", *ALPHABET])}
    core = Tokenizer(models.WordLevel(vocab, unk_token="<pad>"))
    core.pre_tokenizer = pre_tokenizers.Split(Regex("[\\s\\S]"), "isolated")
    core.decoder = decoders.Fuse()
    return PreTrainedTokenizerFast(tokenizer_object=core, eos_token="<eos>", pad_token="<pad>", clean_up_tokenization_spaces=False)


def build(how: StartModel, folder: Path | None = None) -> Path:
    """Train the start model, or take it from the cache.

    Args:
        how: the settings; another value of any of them is another model.
        folder: the cache (default: under HF_HOME).

    Returns:
        A folder that `from_pretrained` loads, model and tokenizer.
    """
    from huggingface_hub.constants import HF_HOME

    key = hashlib.sha256(json.dumps([asdict(how), torch.__version__, "v1"]).encode()).hexdigest()[:16]
    target = (folder or Path(HF_HOME) / "align" / "micro") / f"sums-{key}"
    if (target / "config.json").exists():
        return target
    model = _train(how)
    scratch = target.with_name(f"{target.name}.{os.getpid()}")
    model.save_pretrained(scratch)
    tokenizer().save_pretrained(scratch)
    if target.exists():
        shutil.rmtree(scratch)
    else:
        os.replace(scratch, target)
    return target


def _train(how: StartModel) -> LlamaForCausalLM:
    tok = tokenizer()
    with torch.random.fork_rng():
        torch.manual_seed(how.seed)
        config = LlamaConfig(
            vocab_size=len(tok), hidden_size=how.hidden_size, intermediate_size=4 * how.hidden_size, num_hidden_layers=how.layers,
            num_attention_heads=how.heads, num_key_value_heads=how.heads, max_position_embeddings=128, tie_word_embeddings=False,
            pad_token_id=tok.pad_token_id, eos_token_id=tok.eos_token_id, bos_token_id=None,
        )  # fmt: skip
        model = LlamaForCausalLM(config)
        optimizer = torch.optim.AdamW(model.parameters(), lr=how.learning_rate, betas=(0.9, 0.98), weight_decay=0.01)
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: min(1.0, (step + 1) / 30))
        data = problems(how.max_steps * how.batch_size, how.seed)
        held_out = problems(200, how.seed + 1)
        bar = tqdm(range(1, how.max_steps + 1), desc=f"start model, seed {how.seed}", unit="step", mininterval=1.0)
        for step in bar:
            loss = _loss(model, tok, data[(step - 1) * how.batch_size : step * how.batch_size])
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            schedule.step()
            if step % 20 == 0:
                accuracy = share_right(model, tok, held_out)
                bar.set_postfix(loss=f"{loss.item():.3f}", right=f"{accuracy:.0%}")
                if accuracy >= how.stop_at:
                    break
    return model.eval()


def _loss(model: LlamaForCausalLM, tok: PreTrainedTokenizerFast, part: list[Sum]) -> torch.Tensor:
    """Next-token loss on the solutions of a few problems."""
    batch = tok([p.prompt + p.solution + tok.eos_token for p in part], padding=True, padding_side="right", return_tensors="pt")
    prompts = torch.tensor([len(p.prompt) for p in part])[:, None]
    ids = batch["input_ids"]
    scored = (torch.arange(ids.shape[1])[None] >= prompts) & batch["attention_mask"].bool()
    return model(input_ids=ids, attention_mask=batch["attention_mask"], labels=ids.masked_fill(~scored, -100)).loss
