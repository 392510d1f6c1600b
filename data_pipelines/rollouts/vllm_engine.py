"""Sampling with vLLM in processes of its own: prefix caching, adapters, tensor parallelism, continuous batching."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from align.engine.tokenize import prompt_token_ids
from align.errors import AlignError
from align.models import saved_dtype
from align.sampling import Sample, Sampling
from align.trees import Message
from data_pipelines.rollouts import processes
from data_pipelines.rollouts.ends import end_token_ids
from data_pipelines.rollouts.protocol import Request, Rollout, check_requests, completion_of

IN_FLIGHT = 4096  # samples handed to the scheduler at a time: enough to keep it full, few enough to stop soon


class VllmEngine:
    """vLLM's offline engine. The script that opens it needs an `if __name__ == "__main__"` guard."""

    batch: int | None = None

    def __init__(self, model: str | Path, *, dtype: str = "auto", tensor_parallel: int = 1, options: dict[str, Any] | None = None) -> None:
        """Args: model, a folder (an adapter's as well: its base is loaded and the adapter applied) or a name on the hub;
        dtype ("auto": as the weights were saved); tensor_parallel, GPUs a copy of the model; options, anything else that `vllm.LLM`
        takes, such as `speculative_config` or `max_model_len`.

        Raises:
            AlignError: vLLM is not installed, or the engine does not start.
        """
        os.environ.setdefault("VLLM_LOGGING_LEVEL", "WARNING")
        vllm = import_vllm()
        base, adapter = split_adapter(str(model))
        settings = {"enable_prefix_caching": True, "tensor_parallel_size": tensor_parallel, **cpu_defaults(), **(options or {})}
        if adapter:
            settings = {"enable_lora": True, "max_lora_rank": adapter_rank(adapter), **settings}
        before = processes.family()
        try:
            self._llm = vllm.LLM(model=base, tokenizer=str(model), dtype=vllm_dtype(dtype, base), generation_config="vllm", **settings)
        except Exception as error:  # whatever a model, a driver or an option makes of the start
            raise AlignError(f"vLLM does not start with {model}: {type(error).__name__}: {str(error).strip().splitlines()[0]}") from error
        self._processes = [process for process in processes.family() if process not in before]
        self._adapter = _lora_request(adapter) if adapter else None
        self.tokenizer = self._llm.get_tokenizer()
        self._ends = end_token_ids(str(model), self.tokenizer)
        self.context: int | None = self._llm.model_config.max_model_len

    @property
    def llm(self) -> Any:
        """The `vllm.LLM` that runs."""
        return self._llm

    def prompt_ids(self, prompt: str | list[Message] | tuple[int, ...]) -> tuple[int, ...]:
        """A prompt's token ids."""
        return prompt if isinstance(prompt, tuple) else tuple(prompt_token_ids(prompt, self.tokenizer))

    def generate(self, requests: Sequence[Request], sampling: Sampling) -> Iterator[Rollout]:
        """Sample; prompts come out as they finish, while later ones go in."""
        from vllm.exceptions import VLLMServerError
        from vllm.inputs import TokensPrompt

        check_requests(requests, sampling)
        engine = self._llm.llm_engine
        watching = threading.Event()
        threading.Thread(target=_wake_when_dead, args=(engine.engine_core, watching), daemon=True).start()
        prompts: dict[str, tuple[int, ...]] = {}
        waiting, flying = list(requests)[::-1], 0
        try:
            while waiting or prompts:
                while waiting and (flying + waiting[-1].n <= IN_FLIGHT or not prompts):
                    request = waiting.pop()
                    ids = self.prompt_ids(request.prompt)
                    parameters = sampling_parameters(sampling, request, self._ends)
                    engine.add_request(request.id, TokensPrompt(prompt_token_ids=list(ids)), parameters, lora_request=self._adapter)
                    prompts[request.id] = ids
                    flying += request.n
                for output in engine.step():
                    flying -= len(output.outputs)
                    samples = [_sample(o) for o in sorted(output.outputs, key=lambda o: o.index)]
                    completions = tuple(completion_of(sample, self.tokenizer, sampling, self._ends) for sample in samples)
                    yield Rollout(output.request_id, prompts.pop(output.request_id), completions)
        except VLLMServerError as error:
            raise AlignError(
                f"the vLLM engine died with {len(prompts) + len(waiting)} prompts to go; what was sampled before is kept: "
                "run the same command to go on (its own messages stand above)"
            ) from error
        finally:
            watching.set()
            if prompts and not _is_dead(engine.engine_core):
                engine.abort_request(list(prompts))

    def close(self) -> None:
        """End the engine's processes, which gives their memory back."""
        self._llm.llm_engine.engine_core.shutdown()
        processes.end(self._processes)


def import_vllm() -> Any:
    """The vllm package.

    Raises:
        AlignError: it is not installed, or does not load.
    """
    if "VLLM_CPU_KVCACHE_SPACE" not in os.environ:
        os.environ["VLLM_CPU_KVCACHE_SPACE"] = "1"  # GiB; read by CPU builds only
    try:
        import vllm
    except ImportError as error:
        raise AlignError(
            f"rollouts.engine is 'vllm', which does not load ({str(error).splitlines()[0]}): install align-preferences[vllm] on a GPU "
            "machine, or set rollouts.engine=transformers"
        ) from error
    return vllm


def cpu_defaults() -> dict[str, Any]:
    """What the engine needs to be told where there is no GPU.

    Its CPU build dies when a seeded request's prompt is read in several chunks (it winds a generator back, which CPU
    generators cannot do). Its cache blocks of 128 tokens are too coarse there: with 32 it samples 1.6 times as fast behind a
    few-shot prompt, since more of the prompt is found in the cache.
    """
    import torch

    return {} if torch.cuda.is_available() else {"enforce_eager": True, "enable_chunked_prefill": False, "block_size": 32}


def split_adapter(model: str) -> tuple[str, str | None]:
    """The base model and the adapter's folder, of a folder that may hold an adapter alone."""
    config = Path(model) / "adapter_config.json"
    if not config.exists():
        return model, None
    return json.loads(config.read_text(encoding="utf-8"))["base_model_name_or_path"], model


def adapter_rank(adapter: str) -> int:
    """The rank to reserve, of those that vLLM offers."""
    rank = json.loads((Path(adapter) / "adapter_config.json").read_text(encoding="utf-8"))["r"]
    return next(offered for offered in (8, 16, 32, 64, 128, 256, 320, 512) if offered >= rank)


def vllm_dtype(dtype: str, model: str) -> str:
    """The precision to ask vLLM for: its own "auto" would turn float32 into bfloat16 or float16, ours is the one that was saved."""
    return saved_dtype(model) or dtype if dtype == "auto" else dtype


def sampling_parameters(sampling: Sampling, request: Request, ends: Sequence[int]) -> Any:
    """vLLM's form of the sampling parameters; it counts the seed up for a request's samples itself.

    Args:
        sampling: how tokens are drawn.
        request: for its samples and seed.
        ends: the model's end tokens.
    """
    from vllm import SamplingParams
    from vllm.sampling_params import RequestOutputKind

    return SamplingParams(
        n=request.n, seed=request.seed, temperature=sampling.temperature, top_p=sampling.top_p, top_k=sampling.top_k, min_p=sampling.min_p,
        max_tokens=sampling.max_new_tokens, stop=list(sampling.stop), stop_token_ids=[*ends, *sampling.stop_token_ids], logprobs=0,
        output_kind=RequestOutputKind.FINAL_ONLY,
        detokenize=bool(sampling.stop),  # texts are decoded here, the same way for all engines; vLLM needs its own to see a stop text
    )  # fmt: skip


def _is_dead(client: Any) -> bool:
    return bool(getattr(getattr(client, "resources", None), "engine_dead", False))


def _wake_when_dead(client: Any, over: threading.Event) -> None:
    """End the wait for an engine process that was killed: vLLM's synchronous client notes its death, but goes on waiting."""
    from vllm.v1.engine.exceptions import EngineDeadError

    while not over.wait(0.5):
        if _is_dead(client):
            client.outputs_queue.put(EngineDeadError())
            return


def _lora_request(adapter: str) -> Any:
    from vllm.lora.request import LoRARequest

    return LoRARequest(adapter, 1, adapter)


def _sample(output: Any) -> Sample:
    ids = tuple(output.token_ids)
    logps = tuple(step[token].logprob for step, token in zip(output.logprobs or (), ids, strict=True))
    return Sample(ids, logps, "length" if output.finish_reason == "length" else "stop")
