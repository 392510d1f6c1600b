"""The registry of rollout engines. A new one is a function that opens it, named by `@ENGINES.register`."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from typing import Any

from align.registry import Registry
from align.runs.sharing import shared
from data_pipelines.rollouts.protocol import Engine


@dataclass(frozen=True)
class EngineSettings:
    """Which engine, and how it is set up.

    Attributes:
        engine: a name of `ENGINES`.
        dtype: precision of the weights.
        batch: responses at a time (transformers; vLLM schedules by itself).
        tensor_parallel: GPUs a copy of the model is spread over (vLLM).
        url: address of a running server; without one, the server engine starts its own.
        chat_template: Jinja text that takes the place of the tokenizer's template; None: the tokenizer's own.
        options: passed on: to `vllm.LLM`, to `vllm serve`, to `from_pretrained`.
    """

    engine: str = "transformers"
    dtype: str = "auto"
    batch: int = 64
    tensor_parallel: int = 1
    url: str | None = None
    chat_template: str | None = None
    options: Mapping[str, Any] = field(default_factory=dict)


Opening = Callable[[EngineSettings, str], AbstractContextManager[Engine]]
ENGINES: Registry[Opening] = Registry("engines", "rollouts.engine")


@contextlib.contextmanager
def open_engine(settings: EngineSettings, model: str) -> Iterator[Engine]:
    """Open an engine on a model, as a context that closes it again; stages that share a process share the engine, too.

    Raises:
        AlignError: no such engine, or it does not start.
    """
    opened = ENGINES.find(settings.engine)
    with shared((settings, model), lambda: opened(settings, model)) as engine:
        if settings.chat_template is not None:
            engine.tokenizer.chat_template = settings.chat_template
        yield engine


@ENGINES.register("transformers")
@contextlib.contextmanager
def _transformers(settings: EngineSettings, model: str) -> Iterator[Engine]:
    """transformers in this process; exact on any machine, and slow."""
    from data_pipelines.rollouts.transformers_engine import TransformersEngine

    engine = TransformersEngine(model, dtype=settings.dtype, batch=settings.batch, **settings.options)
    try:
        yield engine
    finally:
        engine.close()


@ENGINES.register("vllm")
@contextlib.contextmanager
def _vllm(settings: EngineSettings, model: str) -> Iterator[Engine]:
    """vLLM in this process: fast on GPUs."""
    from data_pipelines.rollouts.vllm_engine import VllmEngine

    engine = VllmEngine(model, dtype=settings.dtype, tensor_parallel=settings.tensor_parallel, options=dict(settings.options))
    try:
        yield engine
    finally:
        engine.close()


@ENGINES.register("server")
@contextlib.contextmanager
def _server(settings: EngineSettings, model: str) -> Iterator[Engine]:
    """An OpenAI-compatible server, one that runs or vLLM's own started here."""
    from data_pipelines.rollouts.server_engine import ServerEngine, serve

    key = os.environ.get("VLLM_API_KEY", "")  # vLLM's own name for it, so that a server started here asks for the same
    if settings.url is not None:
        yield ServerEngine(model, settings.url, key=key)
        return
    with serve(model, dtype=settings.dtype, tensor_parallel=settings.tensor_parallel, options=dict(settings.options)) as url:
        yield ServerEngine(model, url, key=key)


@ENGINES.register("scripted")
@contextlib.contextmanager
def _scripted(settings: EngineSettings, model: str) -> Iterator[Engine]:
    """Another engine with written responses beside its own, for rehearsals."""
    from data_pipelines.rollouts.scripted_engine import Script, ScriptedEngine

    engine, options, script = (settings.options[name] for name in ("engine", "options", "script"))
    with open_engine(replace(settings, engine=engine, options=options), model) as sampling:
        yield ScriptedEngine(sampling, Script.read(script))
