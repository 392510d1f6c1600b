"""Speed of scoring K = 16 responses to a prompt under policy and reference, the work of DICE's second stage.

    python scripts/bench_scoring.py            # about two minutes on two cores
    python scripts/bench_scoring.py --repeats 9 --threads 1

Contenders take turns in one process, on the same tokens, and must agree to 1e-3 nats a response:
padded    a right-padded batch through transformers, full logits
responses the same with the LM head on response tokens only
align     one packed tree
sampler   the same for the reference alone: the policy's scores are the sampler's own log-probs
"""

from __future__ import annotations

import argparse
import random
import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from transformers import LlamaConfig, LlamaForCausalLM

from align.rewards.implicit import ResponseScorer

VOCABULARY, K = 32000, 16
ROWS = {"prompt 256, responses 128": (256, 128), "prompt 1,024, responses 128": (1024, 128)}
Tokens = list[int]


def _model(seed: int) -> LlamaForCausalLM:
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=VOCABULARY, hidden_size=256, intermediate_size=688, num_hidden_layers=4, num_attention_heads=8, num_key_value_heads=8,
        max_position_embeddings=4096,
    )  # fmt: skip
    return LlamaForCausalLM(config).eval()


def _padded(prompt: Tokens, responses: list[Tokens]) -> tuple[Tensor, Tensor]:
    ids = pad_sequence([torch.tensor(prompt + response) for response in responses], batch_first=True)
    scored = pad_sequence([torch.tensor([0] * len(prompt) + [1] * len(response)) for response in responses], batch_first=True)
    return ids, scored.bool()


@torch.no_grad()
def full_logits(model: LlamaForCausalLM, prompt: Tokens, responses: list[Tokens]) -> Tensor:
    """Padded batch, logits of every position."""
    ids, scored = _padded(prompt, responses)
    logps = model(input_ids=ids).logits[:, :-1].log_softmax(-1).gather(-1, ids[:, 1:, None])[..., 0]
    return (logps * scored[:, 1:]).sum(-1)


@torch.no_grad()
def response_logits(model: LlamaForCausalLM, prompt: Tokens, responses: list[Tokens]) -> Tensor:
    """Padded batch, the LM head on what predicts response tokens."""
    ids, scored = _padded(prompt, responses)
    hidden = model.model(input_ids=ids).last_hidden_state[:, len(prompt) - 1 : -1]
    logps = model.lm_head(hidden).log_softmax(-1).gather(-1, ids[:, len(prompt) :, None])[..., 0]
    return (logps * scored[:, len(prompt) :]).sum(-1)


def contenders(prompt: Tokens, responses: list[Tokens]) -> dict[str, Callable[[], Tensor]]:
    """Each gives the implicit rewards `[K]` (the sampler's form: the reference's log-probs alone)."""
    policy, reference = _model(0), _model(1)
    ours = [ResponseScorer(_model(seed)) for seed in (0, 1)]

    def tree(scorer: ResponseScorer) -> Tensor:
        return torch.stack([logps.sum() for logps in scorer.logps([prompt], [responses])[0]])

    return {
        "padded": lambda: full_logits(policy, prompt, responses) - full_logits(reference, prompt, responses),
        "responses": lambda: response_logits(policy, prompt, responses) - response_logits(reference, prompt, responses),
        "align": lambda: tree(ours[0]) - tree(ours[1]),
        "sampler": lambda: tree(ours[1]),
    }


def main() -> None:
    """Run the rows and print a line each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    print(f"{options.threads} threads, float32, 4-layer 256-wide Llama, vocabulary 32k; seconds a prompt, median of {options.repeats}")
    for name, (prompt_length, response_length) in ROWS.items():
        rng = random.Random(0)
        prompt = [rng.randrange(3, VOCABULARY) for _ in range(prompt_length)]
        responses = [[rng.randrange(3, VOCABULARY) for _ in range(response_length)] for _ in range(K)]
        runs = contenders(prompt, responses)
        rewards = {contender: run() for contender, run in runs.items()}
        for contender in ("responses", "align"):
            torch.testing.assert_close(rewards[contender], rewards["padded"], atol=1e-3, rtol=0)
        seconds: dict[str, list[float]] = {contender: [] for contender in runs}
        for _ in range(options.repeats):
            for contender, run in runs.items():
                began = time.perf_counter()
                run()
                seconds[contender].append(time.perf_counter() - began)
        medians = {contender: statistics.median(values) for contender, values in seconds.items()}
        cells = [f"{c} {m:.2f} ({min(seconds[c]):.2f}–{max(seconds[c]):.2f})" for c, m in medians.items()]
        ratios = (
            f"padded ÷ align = {medians['padded'] / medians['align']:.1f}, padded ÷ sampler = {medians['padded'] / medians['sampler']:.1f}"
        )
        print(f"{name}: {'  '.join(cells)}  |  {ratios}", flush=True)


if __name__ == "__main__":
    main()
