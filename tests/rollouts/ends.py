"""What has to hold of every engine's responses and their ends; and models with other end tokens."""

import shutil

from align.models import load_model
from data_pipelines.rollouts.protocol import Request, seed_of

REQUESTS = [Request(f"p{i}", (5 + i, 6, 7), 8, seed_of(i)) for i in range(6)]


def copied(folder, target, **settings):
    """A model's folder with other generation settings."""
    shutil.copytree(folder, target, dirs_exist_ok=True)
    model = load_model(str(target))
    model.generation_config.update(**settings)
    model.generation_config.save_pretrained(target)
    return target


def check_ends(engine, ends, sampling):
    """Every response ends at its first end token, which is its last token and no part of its text; all others have the full length."""
    reasons = set()
    for rollout in engine.generate(REQUESTS, sampling):
        for completion in rollout.completions:
            reasons.add(completion.finish_reason)
            assert not set(completion.token_ids[:-1]) & set(ends)
            if completion.finish_reason == "stop":
                assert completion.token_ids[-1] in ends
                assert completion.text == engine.tokenizer.decode(completion.token_ids[:-1], skip_special_tokens=True)
            else:
                assert len(completion.token_ids) == sampling.max_new_tokens
                assert completion.token_ids[-1] not in ends
            assert len(completion.logps) == len(completion.token_ids)
    assert reasons == {"stop", "length"}
