"""Whether two evaluations were asked alike: what each stage notes of how it asked, and one sentence on what differs."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from align.runs import Task, write_json
from align.runs.digest import MANIFEST
from data_pipelines.rollouts.protocol import Sampling

ASKED = "asked.json"
_OF_NO_EFFECT = ("engine.batch", "engine.tensor_parallel", "engine.url", "source.limit", "limit", "name")
"""Settings that change which questions are asked, where and how fast, or what a model is called, and not how it is asked."""


def write_asked(task: Task, sampling: Sampling | None = None, **asked: Any) -> None:
    """Leave `asked.json`: a stage's settings as they came out, "auto" and what was left out replaced by what it meant.

    Args:
        task: the stage's.
        sampling: how responses were drawn.
        asked: what else was decided, by name.
    """
    from align.models import saved_dtype

    engine = dict(task.settings["engine"])
    if engine["dtype"] == "auto":
        engine["dtype"] = saved_dtype(task.inputs["model"]) or "auto"
    if engine.get("url"):
        engine["dtype"] = "the server's"
    drawn = dataclasses.asdict(sampling) if sampling is not None else {}
    write_json(task.folder / ASKED, {**task.settings, **drawn, **asked, "engine": engine})


def differences(first: Path, second: Path) -> list[str]:
    """What differs in how two evaluation stages asked, each as "name: first, second"; empty where they asked alike.

    Args:
        first: the folder of one stage.
        second: that of the other; what both of them noted is compared.
    """
    mine, other = _flat(_asked(first)), _flat(_asked(second))
    named = [name for name in mine if name in other and name not in _OF_NO_EFFECT and mine[name] != other[name]]
    return [f"{name.replace('_', ' ')}: {_shown(mine[name])}, {_shown(other[name])}" for name in named]


def _asked(folder: Path) -> dict[str, Any]:
    """How a stage asked; before it noted that, its settings stand for it."""
    manifest = _read(folder / MANIFEST)
    return {**(manifest.get("settings") or {}), **_read(folder / ASKED)}


def _read(file: Path) -> dict[str, Any]:
    return dict(json.loads(file.read_text(encoding="utf-8"))) if file.exists() else {}


def _flat(content: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested settings by dotted names."""
    found: dict[str, Any] = {}
    for key, value in content.items():
        found |= _flat(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {f"{prefix}{key}": value}
    return found


def _shown(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False) if not isinstance(value, str) else value
    return text if len(text) <= 40 else f"{text[:24]}…{text[-12:]}"
