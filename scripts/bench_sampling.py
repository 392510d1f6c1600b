"""Speed of the sampling stage of a run on vLLM, against `LLM.generate` with the same requests.

    python scripts/bench_sampling.py                                    # on a CPU about five minutes; a random 4-layer Llama
    python scripts/bench_sampling.py --model Qwen/Qwen2.5-7B --prompts 2000   # on a GPU

Contenders take turns in one process, on one engine, each with an empty prefix cache; medians of tokens a second are reported:
generate   `LLM.generate` with the stage's own requests: token ids, seeds, log-probs of the sampled tokens
bare       the same without log-probs, which the methods need
stage      the whole stage: prompts read from a file, sampled, decoded, journalled and synced to the disk

What is left out of the stage is the start of the engine alone. Same seeds, same samples: the share that is the same is printed too.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import random
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from align.runs import Task
from align.sampling import Sampling
from data_pipelines.rollouts import engines
from data_pipelines.rollouts.prompts import read_prompts
from data_pipelines.rollouts.protocol import Request, seed_of
from data_pipelines.rollouts.samples import read_samples
from data_pipelines.rollouts.stages import sample
from data_pipelines.rollouts.vllm_engine import VllmEngine, sampling_parameters

WORDS = ("five", "apples", "are", "left", "because", "of", "course", "the", "sum", "is", "seventeen", "how", "many", "does", "Anna", "buy")
Samples = dict[str, list[tuple[int, ...]]]


def write_prompts(path: Path, count: int) -> None:
    """Questions of 5 to 60 words."""
    rng = random.Random(0)
    lines = [json.dumps({"prompt": f"{n}: {' '.join(rng.choices(WORDS, k=rng.randint(5, 60)))}?"}) for n in range(count)]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def by_stage(engine: VllmEngine, prompts: Path, folder: Path, options: argparse.Namespace) -> Callable[[], Samples]:
    """The stage, on an engine that is open; returns what reads the samples that it left."""

    @contextlib.contextmanager
    def opened(settings: Any, model: str) -> Iterator[VllmEngine]:
        yield engine

    engines.ENGINES.register("open")(opened)
    settings = {
        "source": {}, "chat": False, "engine": {"engine": "open"}, "samples": options.samples, "seed": 0, "round": 0,
        "sampling": {"max_new_tokens": options.tokens, "temperature": 1.0},
    }  # fmt: skip
    sample(Task("sample", folder, settings, {"model": "", "prompts": str(prompts)}))
    return lambda: {tree.id: [node.token_ids or () for node in tree.nodes] for tree in read_samples(folder / "samples")}


def requests(engine: VllmEngine, prompts: Path, options: argparse.Namespace) -> list[Request]:
    """What the stage asks for, in its order."""
    asked = [Request(p.id, engine.prompt_ids(p.prompt), options.samples, seed_of(0, 0, p.id)) for p in read_prompts(str(prompts))[0]]
    return sorted(asked, key=lambda request: (len(request.prompt), request.id))


def by_generate(engine: VllmEngine, asked: list[Request], options: argparse.Namespace, **changes: Any) -> Callable[[], Samples]:
    """vLLM's own loop; returns what takes the samples out of its outputs."""
    parameters = [sampling_parameters(Sampling(options.tokens), request, engine._ends) for request in asked]
    for one in parameters:
        one.detokenize = True  # as it is unless one asks for something else
        for name, value in changes.items():
            setattr(one, name, value)
    prompts = [{"prompt_token_ids": list(request.prompt)} for request in asked]
    outputs = engine._llm.generate(prompts, parameters, use_tqdm=False)
    return lambda: {
        request.id: [tuple(completion.token_ids) for completion in sorted(output.outputs, key=lambda o: o.index)]
        for request, output in zip(asked, outputs, strict=True)
    }


def same_share(one: Samples, other: Samples) -> float:
    """Share of samples that are the same tokens."""
    pairs = [(a, b) for name in one for a, b in zip(one[name], other[name], strict=True)]
    return sum(a == b for a, b in pairs) / len(pairs)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", help="a model that vLLM loads (default: a random small one)")
    parser.add_argument("--prompts", type=int, default=64)
    parser.add_argument("--samples", type=int, default=8)
    parser.add_argument("--tokens", type=int, default=128, help="longest response")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--folder", type=Path, help="where the stage writes (default: the system's temporary folder)")
    options = parser.parse_args()
    from bench_search import random_model

    engine = VllmEngine(options.model or random_model(), dtype="auto" if options.model else "float32", options={"max_model_len": 2048})
    with tempfile.TemporaryDirectory() as folder:
        prompts = Path(folder) / "prompts.jsonl"
        write_prompts(prompts, options.prompts)
        asked = requests(engine, prompts, options)
        contenders = {
            "generate": lambda: by_generate(engine, asked, options),
            "bare": lambda: by_generate(engine, asked, options, logprobs=None),
            "stage": lambda: by_stage(engine, prompts, Path(tempfile.mkdtemp(dir=options.folder or folder)), options),
        }
        speeds: dict[str, list[float]] = {name: [] for name in contenders}
        samples: dict[str, Samples] = {}
        for turn in range(options.repeats + 1):
            for name, run in contenders.items():
                engine._llm.reset_prefix_cache()
                began = time.monotonic()
                read = run()
                seconds = time.monotonic() - began
                samples[name] = read()
                if turn:  # the first warms up
                    speeds[name].append(sum(len(ids) for runs in samples[name].values() for ids in runs) / seconds)
    print(f"{options.prompts} prompts, {options.samples} samples each, {options.tokens} tokens at most, {options.repeats} turns")
    for name, values in speeds.items():
        shares = [value / other for value, other in zip(values, speeds["generate"], strict=True)]
        same = same_share(samples["generate"], samples[name])
        print(
            f"  {name:<9} {statistics.median(values):8,.0f} tokens/s ({min(values):,.0f} to {max(values):,.0f})   "
            f"{statistics.median(shares):.3f} of generate in the same turn ({min(shares):.3f} to {max(shares):.3f})   "
            f"{same:.1%} the same samples",
            flush=True,
        )
    engine.close()


if __name__ == "__main__":
    main()
