"""What can be checked before the first sample: models, data, disk, engine, tracker. A run that would die in hours dies now."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
from pathlib import Path

from align import hub
from align.errors import AlignError
from align.plans import Run, method_of
from align.recipes import Recipe
from align.runs import External
from align.training_check import MICRO, check_local_model, check_micro, check_needs, has_tokenizer
from align.trees import check_source
from align.trees.files import FILES, file_type, why_unread
from eval.plan import check_suites, data_sets

BYTES = {"bfloat16": 2, "float16": 2, "float32": 4, "auto": 2}


def check(run: Run) -> None:
    """See that a run can be begun.

    Raises:
        AlignError: what is missing, and under which key of the recipe.
    """
    recipe = run.recipe
    _check_folder(run.folder.path)
    check_needs(recipe)
    sources = [source.source for stage in run.stages for source in stage.inputs.values() if isinstance(source, External)]
    for key, name in (("model.name_or_path", recipe.model.name_or_path), ("model.reference", recipe.model.reference)):
        if name in sources:
            _check_model(key, name)
    method = method_of(recipe)
    data = [("data.train", recipe.data.train), ("rollouts.prompts", recipe.rollouts.prompts if recipe.rollouts else None)]
    for key, name in [*data, *data_sets(recipe, method), *method.data_sets(recipe)]:
        if name is not None and name in sources:
            _check_data(key, name)
    _check_columns(recipe)
    if recipe.model.reference and (recipe.method.makes_preferences or has_tokenizer(Path(recipe.model.reference))):
        _check_tokenizers(Path(recipe.model.name_or_path), Path(recipe.model.reference))
    method.check_parts(recipe)
    check_suites(recipe, method)
    _check_engine(run)
    _check_responses(run)
    _check_tracker(run)
    _check_disk(run)


def _check_folder(path: Path) -> None:
    """See that the run's folder is one, or can be made."""
    above = next(folder for folder in [path, *path.absolute().parents] if folder.exists())
    if not above.is_dir():
        raise AlignError(f"training.output_dir '{path}': a file stands where a folder is needed ({above})")
    if not os.access(above, os.W_OK):
        raise AlignError(f"training.output_dir '{path}': {above} may not be written: give a folder that you may write to")


def _check_tokenizers(policy: Path, reference: Path) -> None:
    """Two folders with different tokenizers; models on the hub are compared when they are loaded."""
    files = [folder / "tokenizer.json" for folder in (policy, reference)]
    same = all(file.is_file() for file in files) and files[0].read_bytes() == files[1].read_bytes()
    if policy.is_dir() and reference.is_dir() and not same:
        from align.rewards.model_scorers import check_tokenizers  # with transformers, which takes seconds

        check_tokenizers(str(policy), str(reference))


def _check_model(key: str, name: str) -> None:
    if name.startswith("micro:"):
        check_micro(key, name, MICRO)
        return
    if hub.is_local(name):
        check_local_model(key, name)
        return
    from transformers import AutoConfig

    hub.offline_where_unreachable()
    try:
        AutoConfig.from_pretrained(name)
    except Exception as error:  # not found, no access, no network: the sentence says which
        raise AlignError(f"{key} '{name}': {hub.hint(error)}") from error


def _check_data(key: str, name: str) -> None:
    if name.startswith("micro:"):
        check_micro(key, name, MICRO)
        return
    if hub.is_local(name):
        _check_file(key, Path(name))
        return
    from datasets import load_dataset_builder

    hub.offline_where_unreachable()
    try:
        path, _, subset = name.partition(":")
        load_dataset_builder(path, subset or None)
    except Exception as error:
        raise AlignError(f"{key} '{name}': {hub.hint(error)}") from error


def _check_file(key: str, path: Path) -> None:
    """See that a file or folder of data is there, can be read, and is of a type that is."""
    if not path.exists():
        raise AlignError(f"{key} '{path}': {hub.not_there(str(path))}")
    if path.is_dir():
        if not any(file.is_file() for file in path.rglob("*")):
            raise AlignError(f"{key} '{path}': there is no file in this folder")
        return
    if file_type(path) not in FILES:
        raise AlignError(f"{key} '{path}': {why_unread(path)}")
    if not os.access(path, os.R_OK):
        raise AlignError(f"{key} '{path}': it may not be read: change its permissions (chmod +r)")


def _check_columns(recipe: Recipe) -> None:
    """See that preference files are in a form that is read, under the names that the recipe maps."""
    data = recipe.data
    for source, split in ((data.train if recipe.method.needs_data else None, data.train_split), (data.eval, data.eval_split)):
        if source is not None and file_type(source) in FILES:
            _check_file("data.train" if source == data.train else "data.eval", Path(source))
            check_source(source, split, data.columns)


def _check_engine(run: Run) -> None:
    rollouts = run.recipe.rollouts
    if rollouts is None or rollouts.engine == "transformers":
        return
    needs_vllm = rollouts.engine == "vllm" or rollouts.url is None
    if needs_vllm and importlib.util.find_spec("vllm") is None:
        raise AlignError(
            f"rollouts.engine is '{rollouts.engine}', but vLLM is not installed: pip install align-preferences[vllm] on a GPU machine, "
            "or set rollouts.engine=transformers"
        )
    if rollouts.engine == "server" and rollouts.url is not None:
        import httpx

        try:
            httpx.get(f"{rollouts.url.rstrip('/')}/v1/models", timeout=10).raise_for_status()
        except httpx.HTTPError as error:
            raise AlignError(f"rollouts.url '{rollouts.url}': no OpenAI-compatible server answers ({type(error).__name__})") from error


def _check_responses(run: Run) -> None:
    """Stop tokens that are in the vocabulary, and a system message that reaches the model."""
    recipe, rollouts = run.recipe, run.recipe.rollouts
    if rollouts is None or not (rollouts.stop_token_ids or rollouts.system is not None):
        return
    from align.models import load_tokenizer
    from data_pipelines.rollouts.ends import stop_token_ids
    from data_pipelines.rollouts.prompts import check_system

    model = recipe.model
    if model.name_or_path.startswith("micro:"):
        return
    tokenizer = load_tokenizer(
        model.name_or_path, revision=model.revision, trust_remote_code=model.trust_remote_code, chat_template=model.chat_template
    )
    stop_token_ids(rollouts.stop_token_ids, tokenizer)
    chat = bool(rollouts.chat) if recipe.method.goes_on_from_texts else rollouts.chat is not False
    check_system(rollouts.system, tokenizer, chat)


def _check_tracker(run: Run) -> None:
    trackers = run.recipe.training.get("report_to") or []
    if "wandb" in ([trackers] if isinstance(trackers, str) else trackers):
        offline = os.environ.get("WANDB_MODE") in ("offline", "disabled")
        logged_in = os.environ.get("WANDB_API_KEY") or (Path.home() / ".netrc").exists()
        if not (offline or logged_in):
            raise AlignError("training.report_to is wandb, but nobody is logged in: run `wandb login`, or set WANDB_MODE=offline")


def _check_disk(run: Run) -> None:
    """Room for each round's model and one checkpoint with the optimizer's state."""
    weights = _bytes_of_weights(run.recipe.model.name_or_path)
    if weights is None:
        return
    rounds = run.recipe.loop.count
    needed = weights * rounds + weights * (1 if run.recipe.model.lora else 7) * bool(run.recipe.training.get("save_strategy") != "no")
    place = next(path for path in [run.folder.path, *run.folder.path.absolute().parents] if path.exists())
    disk = shutil.disk_usage(place)
    free = disk.free
    if disk.total and free < needed:  # what is no disk, such as /proc, says so itself when it is written to
        raise AlignError(
            f"{run.folder.path}: {free / 1e9:.1f} GB free, but {rounds} model(s) and a checkpoint need about {needed / 1e9:.1f} GB: "
            "give another training.output_dir"
        )


def _bytes_of_weights(name: str) -> int | None:
    """Bytes of a local model's weights; None where they are not here."""
    path = Path(name)
    index = path / "model.safetensors.index.json"
    if index.exists():
        return int(json.loads(index.read_text(encoding="utf-8"))["metadata"]["total_size"])
    single = path / "model.safetensors"
    return single.stat().st_size if single.exists() else None
