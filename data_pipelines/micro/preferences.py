"""On-policy preferences for the sums task: several samples a problem, right over wrong."""

from __future__ import annotations

from typing import Any

from align.engine.generate import sample_responses
from align.sampling import Sampling
from align.trees import Edge, Node, PreferenceTree
from data_pipelines.micro.sums import MAX_NEW_TOKENS, problems


def sample_preferences(
    model: Any, tokenizer: Any, *, count: int = 400, samples: int = 8, seed: int = 0, temperature: float = 1.0
) -> list[PreferenceTree]:
    """Sample responses and pair a right one with a wrong one, for every problem that has both.

    Args:
        model: the start model.
        tokenizer: the start model's.
        count: how many pairs.
        samples: responses a problem.
        seed: of problems and samples.
        temperature: of the samples.

    Returns:
        `count` trees with one edge each, the sampled token ids kept; fewer only if 8 · count problems do not suffice.
    """
    found: list[PreferenceTree] = []
    for chunk in range(8):
        batch = problems(count, seed * 100 + chunk, "pairs")
        prompts = [tokenizer(problem.prompt)["input_ids"] for problem in batch]
        responses = sample_responses(
            model, prompts, Sampling(MAX_NEW_TOKENS, temperature), tokenizer=tokenizer,
            seeds=(seed * 100 + chunk) << 20, n=samples, batch_size=800,
        )  # fmt: skip
        for i, problem in enumerate(batch):
            mine = [r.token_ids for r in responses[i] if r.finish_reason == "stop"]
            texts = {r: tokenizer.decode(r, skip_special_tokens=True) for r in mine}
            right = [r for r in mine if problem.is_right(texts[r])]
            wrong = [r for r in mine if not problem.is_right(texts[r])]
            if right and wrong:
                nodes = (Node(texts[right[0]], token_ids=right[0], score=1.0), Node(texts[wrong[0]], token_ids=wrong[0], score=0.0))
                found.append(PreferenceTree(problem.prompt, nodes, (Edge(0, 1),), prompt_token_ids=tuple(prompts[i])))
                if len(found) == count:
                    return found
    return found
