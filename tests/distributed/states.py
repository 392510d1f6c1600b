"""Bytes of model states that each process holds under ZeRO, counted in DeepSpeed's own tensors: weights, gradients, master weights, Adam."""

import contextlib
import gc
import json
import sys
from pathlib import Path

import deepspeed
import torch
from transformers import AutoConfig, AutoModelForCausalLM

SMALL = {"reduce_bucket_size": 200_000, "allgather_bucket_size": 200_000, "stage3_param_persistence_threshold": 0}
ONE_LAYER = {"stage3_prefetch_bucket_size": 0, "stage3_max_live_parameters": 0}


def held() -> int:
    """Bytes of all tensors that are alive."""
    gc.collect()
    storages = {}
    for found in gc.get_objects():
        if issubclass(type(found), torch.Tensor) and found.device.type == "cpu":
            for tensor in (found, found.grad if found.is_leaf else None):
                if tensor is not None:
                    storage = tensor.untyped_storage()
                    storages[storage.data_ptr()] = storage.nbytes()
    return sum(storages.values())


def measure(stage: int, folder: Path) -> float:
    """The most that is held after either micro-batch of a step, or after the step."""
    settings = {
        "train_micro_batch_size_per_gpu": 1, "gradient_accumulation_steps": 2, "bf16": {"enabled": True},
        "zero_optimization": {"stage": stage, **SMALL, **(ONE_LAYER if stage == 3 else {})},
        "optimizer": {"type": "Adam", "params": {"lr": 1e-4, "torch_adam": True}},
    }  # fmt: skip
    before = held()
    with deepspeed.zero.Init(config_dict_or_path=settings) if stage == 3 else contextlib.nullcontext():
        model = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(folder), dtype=torch.bfloat16)
    engine, *_ = deepspeed.initialize(model=model, config=settings)
    found = []
    for _ in range(4):
        ids = torch.randint(0, 2048, (1, 16))
        engine.backward(engine(ids, labels=ids).loss)
        found.append(held())
        engine.step()
        found.append(held())
    engine.destroy()
    return float(max(found) - before)


if __name__ == "__main__":
    deepspeed.init_distributed(dist_backend="gloo")
    measured = {stage: measure(stage, Path(sys.argv[1])) for stage in (0, 1, 2, 3)}
    if torch.distributed.get_rank() == 0:
        print(json.dumps(measured))
    torch.distributed.destroy_process_group()
