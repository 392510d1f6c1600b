"""Sampling from an OpenAI-compatible server: one that runs already, or a `vllm serve` of our own."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import httpx
import psutil

from align.engine.tokenize import prompt_token_ids
from align.errors import AlignError
from align.imports import importing_ours
from align.models import load_tokenizer
from align.sampling import Sample, Sampling
from align.trees import Message
from data_pipelines.rollouts import processes
from data_pipelines.rollouts.concurrency import concurrently
from data_pipelines.rollouts.ends import end_token_ids
from data_pipelines.rollouts.protocol import Request, Rollout, check_requests, completion_of
from data_pipelines.rollouts.vllm_engine import adapter_rank, cpu_defaults, import_vllm, split_adapter, vllm_dtype

CONNECTIONS = 256
ATTEMPTS = 4  # of a request that the server did not answer, with growing pauses between


class ServerEngine:
    """Completions from `/v1/completions`, with token ids in and out (vLLM's `return_token_ids`)."""

    batch: int | None = None

    def __init__(self, model: str | Path, url: str, *, name: str | None = None, key: str = "", timeout: float = 600.0) -> None:
        """Args: model, whose tokenizer renders the prompts; url, such as http://localhost:8000 (or with /v1); name, what the server
        calls the model (default: the one that it serves); key, the API key; timeout of one request, seconds.

        Raises:
            AlignError: nobody answers at `url`, or the server serves another model.
        """
        self.tokenizer = load_tokenizer(str(model))
        self._ends = end_token_ids(str(model), self.tokenizer)
        self._url, self._timeout = url.rstrip("/").removesuffix("/v1"), timeout
        self._headers = {"Authorization": f"Bearer {key}"} if key else {}
        served = self._models()
        names = [entry["id"] for entry in served]
        self._name = name or (str(model) if str(model) in names else names[0])
        if self._name not in names:
            raise AlignError(f"{url} serves {', '.join(names)}, and not {self._name}")
        entry = served[names.index(self._name)]
        root = entry.get("root") or self._name
        if name is None and Path(model).exists() and Path(root).exists() and Path(root).resolve() != Path(model).resolve():
            raise AlignError(f"{url} serves {root}, and not {model}: start the server with the model of this round")
        self.context: int | None = entry.get("max_model_len")

    def prompt_ids(self, prompt: str | list[Message] | tuple[int, ...]) -> tuple[int, ...]:
        """A prompt's token ids."""
        return prompt if isinstance(prompt, tuple) else tuple(prompt_token_ids(prompt, self.tokenizer))

    def generate(self, requests: Sequence[Request], sampling: Sampling) -> Iterator[Rollout]:
        """Sample with many requests at a time; prompts come out as they finish."""
        check_requests(requests, sampling)
        ask = functools.partial(self._one, sampling=sampling)
        yield from concurrently(requests, ask, connections=CONNECTIONS, timeout=self._timeout, headers=self._headers)

    def close(self) -> None:
        """Nothing to give back: the server is somebody else's."""

    async def _one(self, client: httpx.AsyncClient, request: Request, sampling: Sampling) -> Rollout:
        ids = self.prompt_ids(request.prompt)
        room = max(1, self.context - len(ids)) if self.context is not None else sampling.max_new_tokens
        body = {
            "model": self._name, "prompt": list(ids), "n": request.n, "seed": request.seed, "temperature": sampling.temperature,
            "top_p": sampling.top_p, "top_k": sampling.top_k, "min_p": sampling.min_p, "repetition_penalty": 1.0,
            "max_tokens": min(sampling.max_new_tokens, room), "stop": list(sampling.stop),
            "stop_token_ids": [*self._ends, *sampling.stop_token_ids],
            "logprobs": 0, "return_token_ids": True,
        }  # fmt: skip
        for attempt in range(ATTEMPTS):
            try:
                answer = await client.post(f"{self._url}/v1/completions", json=body)
                break
            except httpx.TransportError as error:
                if attempt == ATTEMPTS - 1:
                    raise AlignError(
                        f"the server at {self._url} no longer answers ({type(error).__name__}); what was sampled before is kept: "
                        "start it again, then run the same command to go on"
                    ) from error
                await asyncio.sleep(0.5 * 2**attempt)
        if answer.status_code >= 500:
            raise AlignError(
                f"the server at {self._url} failed ({_message(answer)[:200]}); what was sampled before is kept: "
                "start it again, then run the same command to go on"
            )
        if answer.status_code != 200:
            raise AlignError(f"the server at {self._url} refused prompt {request.id}: {_message(answer)}")
        choices = sorted(answer.json()["choices"], key=lambda choice: choice["index"])
        completions = (completion_of(self._sample(choice), self.tokenizer, sampling, self._ends) for choice in choices)
        return Rollout(request.id, ids, tuple(completions))

    def _sample(self, choice: dict[str, Any]) -> Sample:
        if choice.get("token_ids") is None:
            raise AlignError(f"the server at {self._url} gives no token ids, which training needs: it must be vLLM 0.10.2 or later")
        logps = tuple((choice.get("logprobs") or {}).get("token_logprobs") or ())
        return Sample(tuple(choice["token_ids"]), logps, "length" if choice["finish_reason"] == "length" else "stop")

    def _models(self) -> list[dict[str, Any]]:
        try:
            answer = httpx.get(f"{self._url}/v1/models", timeout=30, headers=self._headers)
            answer.raise_for_status()
            return list(answer.json()["data"])
        except (httpx.HTTPError, ValueError, KeyError) as error:
            raise AlignError(f"no OpenAI-compatible server answers at {self._url}/v1/models ({type(error).__name__})") from error


@contextlib.contextmanager
def serve(
    model: str | Path, *, dtype: str = "auto", tensor_parallel: int = 1, options: dict[str, Any] | None = None, patience: float = 1800.0
) -> Iterator[str]:
    """Run `vllm serve` on a free port of this machine, as long as the context lasts; yields its address.

    Args:
        model: as for `VllmEngine`.
        dtype: as for `VllmEngine`.
        tensor_parallel: as for `VllmEngine`.
        options: further settings of `vllm serve`, such as `{"data_parallel_size": 8}`.
        patience: seconds to wait for it to be ready.

    Raises:
        AlignError: vLLM is not installed, or the server ends before it is ready.
    """
    import_vllm()
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    base, adapter = split_adapter(str(model))
    settings = {
        "dtype": vllm_dtype(dtype, base), "tensor_parallel_size": tensor_parallel, "generation_config": "vllm", **cpu_defaults(),
        **(options or {}),
    }  # fmt: skip
    if adapter:
        settings |= {"enable_lora": True, "max_lora_rank": adapter_rank(adapter), "lora_modules": f"{adapter}={adapter}"}
    command = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", base, "--host", "127.0.0.1", "--port", str(port)]
    command += ["--tokenizer", str(model), *_flags(settings)]
    process = subprocess.Popen(command, stdout=sys.stderr, env=importing_ours(os.environ))
    address = f"http://127.0.0.1:{port}"
    started = [psutil.Process(process.pid)]
    try:
        deadline = time.monotonic() + patience
        while not _healthy(address):
            if process.poll() is not None or time.monotonic() > deadline:
                raise AlignError(f"`vllm serve {model}` did not get ready (its own messages stand above)")
            time.sleep(0.5)
        started += processes.family(process.pid)
        yield address
    finally:
        processes.end(started)


def _flags(settings: dict[str, Any]) -> list[str]:
    flags = []
    for name, value in settings.items():
        flag = name.replace("_", "-")
        if isinstance(value, bool):
            flags.append(f"--{flag}" if value else f"--no-{flag}")
        elif value is not None:
            flags += [f"--{flag}", value if isinstance(value, str) else json.dumps(value)]
    return flags


def _healthy(address: str) -> bool:
    try:
        return httpx.get(f"{address}/health", timeout=5).status_code == 200
    except httpx.HTTPError:
        return False


def _message(answer: httpx.Response) -> str:
    try:
        content = answer.json()
        return str((content.get("error") or content).get("message", content))
    except (ValueError, AttributeError):
        return f"status {answer.status_code}"
