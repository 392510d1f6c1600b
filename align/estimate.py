"""`align estimate`: hours, memory and disk of a recipe, from the model's configuration alone.

Every number is a formula over tokens and parameters with a stated efficiency; lengths are assumptions that the user
gives. Good to a factor of about 1.5 where lengths are right: enough to choose a machine and a time limit.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from align import hub
from align.engine.lm_head import KEEP
from align.errors import AlignError, nearest
from align.plans import method_of
from align.recipes import Recipe
from data_pipelines.rounds import Lengths, recipe_of_round

TRAINING_MFU = 0.40  # share of the peak that training and scoring reach in bf16
SAMPLING_SHARE = 0.55  # share of the memory-bound ideal that continuous batching reaches over a whole run
USABLE = 0.92  # share of a GPU's memory that CUDA and fragments leave
TOKEN_BYTES = 100  # on disk, of a sampled token: text, id and log-prob in the files of sampling, filtering, scoring and pairing
MAX_SEQUENCES = 256  # responses that vLLM decodes at a time, unless told otherwise


@dataclass(frozen=True)
class Gpu:
    """Peak bf16 FLOP/s, memory bytes/s, memory bytes."""

    flops: float
    bandwidth: float
    memory: float


GPUS = {
    "a100": Gpu(312e12, 2.04e12, 80e9), "h100": Gpu(989e12, 3.35e12, 80e9), "h200": Gpu(989e12, 4.8e12, 141e9),
    "l40s": Gpu(362e12, 0.86e12, 48e9), "rtx4090": Gpu(165e12, 1.01e12, 24e9), "a10": Gpu(125e12, 0.6e12, 24e9),
}  # fmt: skip
WEIGHT_BYTES = {None: 2.0, "int8": 1.05, "nf4": 0.55}  # of a frozen weight, with its scales

MEMORY_OF = {
    "ddp": "DDP", "zero1": "ZeRO-1", "zero2": "ZeRO-2", "zero3": "ZeRO-3", "fsdp2": "ZeRO-3", "zero3-offload": "ZeRO-3, offload",
}  # fmt: skip
"""The row of `Estimate.memory` of each accelerate configuration."""


@dataclass(frozen=True)
class Workload:
    """What the recipe does not say: machine and lengths.

    Attributes:
        gpu, gpus: which (see `GPUS`) and how many.
        prompts: of all rounds that share them out, or of each, unless `rollouts.limit` says; pairs, where there are no rounds.
        prompt_tokens, response_tokens: mean lengths.
    """

    gpu: str = "h100"
    gpus: int = 8
    prompts: int = 10000
    prompt_tokens: int = 200
    response_tokens: int = 400

    @property
    def lengths(self) -> Lengths:
        """What of this a method's effort depends on."""
        return Lengths(self.prompts, self.prompt_tokens, self.response_tokens)


@dataclass(frozen=True)
class Shape:
    """What counts of a model: parameters, trained parameters, layers, hidden size, width of the MLP (of all experts that a
    token passes), vocabulary, bytes of keys and values a token."""

    parameters: float
    trained: float
    layers: int
    hidden: int
    mlp: int
    vocabulary: int
    kv_bytes: float


@dataclass(frozen=True)
class Estimate:
    """Hours and tokens by stage (a round's, their mean where rounds differ), rounds, gigabytes a GPU by ZeRO stage, gigabytes of disk."""

    shape: Shape
    workload: Workload
    rounds: int
    stages: dict[str, tuple[float, float]]
    memory: dict[str, float]
    disk: float

    @property
    def hours(self) -> float:
        """Of all rounds."""
        return self.rounds * sum(hours for _, hours in self.stages.values())

    def fits(self, row: str) -> bool:
        """Whether training does; `row` of `memory`."""
        return self.memory[row] * 1e9 < USABLE * GPUS[self.workload.gpu].memory


def estimate(recipe: Recipe, workload: Workload, config: str | None = None) -> Estimate:
    """Hours, memory and disk of a recipe.

    Args:
        recipe: without regard to variants and seeds.
        workload: machine and lengths.
        config: a `config.json` or its folder, instead of the model's own.

    Raises:
        AlignError: the model's configuration cannot be had, or there is no such GPU.
    """
    if workload.gpu not in GPUS:
        raise AlignError(f"--gpu {workload.gpu}: {nearest(workload.gpu, GPUS)}")
    shape = _shape(recipe, config)
    rounds = recipe.loop.count
    sampled, read, tokens = _tokens(recipe, workload)
    stages = {name: (drawn, drawn / _decoding_speed(recipe, shape, workload) / 3600) for name, drawn in sampled.items()}
    stages |= {name: (count, _hours(2 * count, shape, workload)) for name, count in read.items()}
    passes = 6 + 2 + (2 if recipe.training.get("gradient_checkpointing", True) else 0)  # policy, reference, recomputation
    stages["train"] = (tokens, _hours(passes * tokens, shape, workload))
    samples = stages.get("sample", (0.0, 0.0))[0] * TOKEN_BYTES
    disk = rounds * (2 * shape.parameters + samples) + 2 * shape.parameters + 12 * shape.trained
    return Estimate(shape, workload, rounds, stages, _memory(recipe, shape, workload), disk / 1e9)


def _tokens(recipe: Recipe, workload: Workload) -> tuple[dict[str, float], dict[str, float], float]:
    """Tokens that a round samples and reads, by stage, and trains on, in the mean of all rounds."""
    rounds, method = recipe.loop.count, method_of(recipe)
    sampled, read, trained = dict[str, float](), dict[str, float](), 0.0
    for own in (recipe_of_round(recipe, number) for number in range(1, rounds + 1)):
        effort = method.effort(own, workload.lengths)
        for total, of_round in ((sampled, effort.sampled), (read, effort.read)):
            for name, count in of_round.items():
                total[name] = total.get(name, 0.0) + count
        each = workload.prompt_tokens + effort.leaves * workload.response_tokens
        trained += _trained_trees(own, workload, effort.replayed) * each
    mean = [{name: count / rounds for name, count in total.items()} for total in (sampled, read)]
    return mean[0], mean[1], trained / rounds


def check_memory(recipe: Recipe, found: Estimate) -> None:
    """See that what the recipe trains fits the GPUs in the way that it says.

    Raises:
        AlignError: it does not; names what would.
    """
    name, load = recipe.resources.accelerate, found.workload
    if name not in MEMORY_OF or found.fits(MEMORY_OF[name]):
        return
    row = MEMORY_OF[name]
    ways = [other for other in MEMORY_OF if other != name and found.fits(MEMORY_OF[other])]
    for gpus in (load.gpus * factor for factor in (2, 4, 8, 16)):
        if replace(found, memory=_memory(recipe, found.shape, replace(load, gpus=gpus))).fits(row):
            ways.append(f"{name} on {gpus} GPUs")
            break
    if not recipe.model.lora:
        ways.append("LoRA (model.lora={r: 16})")
    room = USABLE * GPUS[load.gpu].memory / 1e9
    raise AlignError(
        f"resources.accelerate is '{name}': training takes {found.memory[row]:.1f} GB of each of {load.gpus} {load.gpu}, "
        f"where {room:.1f} GB can be used: take {' or '.join(ways)}"
    )


def _hours(flops_per_parameter: float, shape: Shape, workload: Workload) -> float:
    return flops_per_parameter * shape.parameters / (GPUS[workload.gpu].flops * TRAINING_MFU * workload.gpus) / 3600


def _decoding_speed(recipe: Recipe, shape: Shape, workload: Workload) -> float:
    """Tokens a second of all GPUs: every step reads all weights, and the keys and values of every open response."""
    gpu, spread = GPUS[workload.gpu], recipe.engine_gpus
    context = workload.prompt_tokens + workload.response_tokens / 2
    weights = 2 * shape.parameters
    room = 0.9 * gpu.memory * spread - weights
    if room <= 0:
        raise AlignError(f"one {workload.gpu} does not hold the model ({weights / 1e9:.0f} GB): raise resources.tensor_parallel")
    batch = min(MAX_SEQUENCES, room / (shape.kv_bytes * context))
    step = max(
        2 * shape.parameters * batch / (gpu.flops * spread * TRAINING_MFU),
        (weights + batch * shape.kv_bytes * context) / (gpu.bandwidth * spread),
    )
    return SAMPLING_SHARE * batch / step * (workload.gpus / spread)


def _trained_trees(recipe: Recipe, workload: Workload, replayed: float) -> float:
    """Trees that the training sees: a pair each, or, with thoughts, one of k thoughts a step along one path."""
    training = recipe.training
    each_step = training.get("per_device_train_batch_size", 8) * training.get("gradient_accumulation_steps", 1) * workload.gpus
    rows = training.get("global_batch_size") or each_step
    if training.get("max_steps", -1) > 0:
        return float(training["max_steps"] * rows)
    prompts = workload.lengths.prompts_of_round(recipe) if recipe.rollouts else recipe.data.limit or workload.prompts
    return float(prompts / (1 - replayed) * training.get("num_train_epochs", 3))


def _memory(recipe: Recipe, shape: Shape, workload: Workload) -> dict[str, float]:
    """Gigabytes a GPU while training: bf16 weights and gradients, float32 master weights and two Adam moments, activations.

    Of a layer and token the backward keeps 8 bytes of each of the MLP's width (gate, its activation, up, their product) and
    26 of the hidden size (two norms in float32, their outputs, queries, keys, values before and after rotation, output);
    with checkpointing its input, and all of the one layer that is recomputed. The last norm adds 6.
    """
    full, trained, gpus, training = shape.parameters, shape.trained, workload.gpus, recipe.training
    weights = WEIGHT_BYTES[recipe.model.quantization] * full
    reference = 0.0 if recipe.model.lora or training.get("precompute_ref_log_probs") else 2 * full
    trees = training.get("per_device_train_batch_size", 8) * (workload.prompt_tokens + 2 * workload.response_tokens)
    micro = training.get("max_tokens_per_batch") or trees
    one_layer = 8 * shape.mlp + 26 * shape.hidden
    kept = shape.layers * one_layer
    if training.get("gradient_checkpointing", True):
        offloaded = (training.get("gradient_checkpointing_kwargs") or {}).get("offload")
        kept = one_layer + (0 if offloaded else shape.layers * 2 * shape.hidden)
    logits = 6 * min(micro * shape.vocabulary, KEEP["cuda"])  # bf16, then float32; more are made twice, part by part
    activations = micro * (kept + 6 * shape.hidden) + logits
    gathered = 4 * full / shape.layers  # two layers at a time; the reference's log-probs are there before training begins
    found = {
        "DDP": weights + 14 * trained + reference,
        "ZeRO-1": weights + 2 * trained + 12 * trained / gpus + reference,
        "ZeRO-2": weights + 14 * trained / gpus + reference,
        "ZeRO-3": (weights + 14 * trained) / gpus + gathered,
        "ZeRO-3, offload": gathered,
    }
    return {name: (value + activations) / 1e9 for name, value in found.items()}


def _shape(recipe: Recipe, source: str | None) -> Shape:
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    name = source or recipe.model.name_or_path
    if not Path(name).exists():
        hub.offline_where_unreachable()
    try:
        config: Any = AutoConfig.from_pretrained(name)
        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(config)
    except (OSError, ValueError) as error:
        raise AlignError(f"model.name_or_path '{name}': {hub.hint(error)} (or give --config FILE)") from error
    full = sum(p.numel() for p in model.parameters())
    text = config.get_text_config()
    heads = getattr(text, "num_key_value_heads", None) or text.num_attention_heads
    width = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
    trained = float(full)
    if recipe.model.lora:
        linear = [m for n, m in model.named_modules() if isinstance(m, torch.nn.Linear) and "lm_head" not in n]
        trained = float(sum(recipe.model.lora.r * (m.in_features + m.out_features) for m in linear))
    layers, hidden = text.num_hidden_layers, text.hidden_size
    experts = getattr(text, "num_experts_per_tok", None) or 1
    mlp = experts * (getattr(text, "moe_intermediate_size", None) or getattr(text, "intermediate_size", None) or 4 * hidden)
    return Shape(float(full), trained, layers, hidden, mlp, text.vocab_size, 4.0 * layers * heads * width)
