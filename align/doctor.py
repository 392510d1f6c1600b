"""`align doctor`: what this machine can do, in words."""

from __future__ import annotations

import importlib.util
import os
import shutil
from importlib.metadata import PackageNotFoundError, version

import torch

from align.machine import usable_cpus

PINNED = ("torch", "transformers", "trl", "peft", "accelerate", "datasets", "deepspeed", "wandb")


def report() -> list[tuple[str, bool, str]]:
    """Findings about this machine: name, whether it is good, and a sentence."""
    return [_device(), _cpus(), *_packages(), _sandbox(), _vllm(), _deepspeed(), _tracking(), _disk(), _memory(), _slurm()]


def _device() -> tuple[str, bool, str]:
    if torch.cuda.is_available():
        names = ", ".join(torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count()))
        return (
            "device",
            True,
            f"{torch.cuda.device_count()} GPU(s): {names}. bf16 {'works' if torch.cuda.is_bf16_supported() else 'does not work'}.",
        )
    return "device", True, f"No GPU: training runs on {torch.get_num_threads()} CPU threads. Good for the micro recipes and for tests."


def _cpus() -> tuple[str, bool, str]:
    usable, all_of_them = usable_cpus(), os.cpu_count() or 1
    bound = "" if usable == all_of_them else f" of {all_of_them}; the others are kept from it by its affinity or its control group's quota"
    return "cpus", True, f"This process may use {usable}{bound}. As many programs run side by side in the sandbox."


def _packages() -> list[tuple[str, bool, str]]:
    found = []
    for name in PINNED:
        try:
            found.append((name, True, version(name)))
        except PackageNotFoundError:
            optional = name in ("deepspeed",)
            found.append((name, optional, f"not installed{' (optional: pip install align-preferences[deepspeed])' if optional else ''}"))
    return found


def _vllm() -> tuple[str, bool, str]:
    if importlib.util.find_spec("vllm") is None:
        return "vllm", True, "not installed: sampling uses transformers.generate (pip install align-preferences[vllm] on a GPU machine)."
    return "vllm", True, "installed: sampling can use it."


def _sandbox() -> tuple[str, bool, str]:
    from data_pipelines.code_execution.sandbox import available
    from data_pipelines.code_execution.sandbox.isolation import LEVELS

    found = available()
    best = next((mechanism for mechanism, reason in found.items() if not reason), None)
    missing = "; ".join(f"no {mechanism}: {reason}" for mechanism, reason in found.items() if reason)
    if best is None:
        return "sandbox", False, f"programs cannot be run here. {missing}"
    if LEVELS[best] == "limits":
        return "sandbox", False, f"programs run WITHOUT isolation, bounded in time and memory alone: install bubblewrap. {missing}"
    return "sandbox", True, f"programs run isolated by {best} (level: {LEVELS[best]}). {missing}".strip()


def _deepspeed() -> tuple[str, bool, str]:
    if importlib.util.find_spec("deepspeed") is None:
        return "zero", True, "DeepSpeed is not installed: ZeRO recipes do not run, DDP and FSDP do."
    compiler = shutil.which("g++") is not None
    return "zero", True, f"ZeRO 1 to 3 run; optimizer offload {'can' if compiler else 'cannot (no g++)'} be compiled."


def _tracking() -> tuple[str, bool, str]:
    if os.environ.get("WANDB_MODE") == "offline" or not os.environ.get("WANDB_API_KEY"):
        return "wandb", True, "no API key: runs are tracked offline only (WANDB_MODE=offline), to be uploaded with `wandb sync`."
    return "wandb", True, "API key set."


def _disk() -> tuple[str, bool, str]:
    free = shutil.disk_usage(".").free / 1e9
    return "disk", free > 20, f"{free:.0f} GB free here. A checkpoint of an 8B model with its optimizer takes about 110 GB."


def _memory() -> tuple[str, bool, str]:
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9
    return "memory", total > 7, f"{total:.0f} GB of main memory."


def _slurm() -> tuple[str, bool, str]:
    return "slurm", True, "sbatch found." if shutil.which("sbatch") else "no Slurm here: job scripts cannot be submitted from this machine."
