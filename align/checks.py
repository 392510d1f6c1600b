"""What can be checked before the first sample: models, data, disk, engine, tracker. A run that would die in hours dies now."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
from pathlib import Path

from align import hub
from align.errors import AlignError, nearest
from align.plans import Run
from align.recipes import Recipe
from align.runs import External
from align.training_check import MICRO, check_local_model, check_micro, check_needs
from align.trees import check_source
from align.trees.files import FILES, file_type

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
    data = {
        "data.train": recipe.data.train,
        "rollouts.prompts": recipe.rollouts.prompts if recipe.rollouts else None,
        "evaluation.questions": recipe.evaluation.questions if recipe.evaluation else None,
    }
    for key, name in data.items():
        if name is not None and name in sources:
            _check_data(key, name)
    _check_columns(recipe)
    if recipe.model.reference:
        _check_tokenizers(Path(recipe.model.name_or_path), Path(recipe.model.reference))
    if recipe.ranks_by_rewards:
        _check_rounds(run)
    if recipe.thoughts is not None:
        _check_thoughts(run)
    if recipe.task_of_questions is not None:
        _check_questions(recipe, recipe.task_of_questions)
    if recipe.code is not None:
        _check_code(run)
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
        raise AlignError(f"{key} '{path}': a file of this type is not read: expected {', '.join(FILES)}, text also with .gz after it")
    if not os.access(path, os.R_OK):
        raise AlignError(f"{key} '{path}': it may not be read: change its permissions (chmod +r)")


def _check_columns(recipe: Recipe) -> None:
    """See that preference files are in a form that is read, under the names that the recipe maps."""
    replays = recipe.rounds is None or not recipe.ranks_by_rewards or recipe.rounds.replay > 0
    for source, split in ((recipe.data.train if replays else None, recipe.data.train_split), (recipe.data.eval, recipe.data.eval_split)):
        if source is not None and file_type(source) in FILES:
            _check_file("data.train" if source == recipe.data.train else "data.eval", Path(source))
            check_source(source, split, recipe.data.columns)


def _check_rounds(run: Run) -> None:
    from align.rewards import PAIRINGS
    from align.rewards.scorers import SCORERS
    from data_pipelines.implicit_rewards.llm_scorer import LLMOptions

    rounds = run.recipe.rounds
    assert rounds is not None
    PAIRINGS.check(rounds.pairing)
    for choice in rounds.scorers:
        SCORERS.check(choice.name)
        if choice.name == "llm":
            options = LLMOptions.checked(choice.options)
            if options.engine == "vllm" and importlib.util.find_spec("vllm") is None:
                raise AlignError(
                    "rounds.scorers: llm: options.engine is 'vllm', which is not installed: pip install align-preferences[vllm]"
                )
    if not 0 <= rounds.replay < 1:
        raise AlignError(f"rounds.replay is {rounds.replay}: expected a share of offline preferences from 0 to below 1")


def _check_thoughts(run: Run) -> None:
    from data_pipelines.thought_trees.judges import find_judge
    from data_pipelines.thought_trees.tasks import load_task

    recipe, thoughts = run.recipe, run.recipe.thoughts
    assert thoughts is not None
    assert recipe.rollouts is not None
    task, judge = load_task(thoughts.task), thoughts.judge
    find_judge(judge.name)
    if judge.name == "self_evaluation" and task.judge is None:
        raise AlignError(f"thoughts.judge: the task '{thoughts.task}' has no `judge`, which 'self_evaluation' needs: choose another judge")
    known = task.data.gold is not None or task.data.gold_always is not None
    if not known and (judge.name == "checker" or thoughts.edges.paths == "gold"):
        raise AlignError(f"thoughts: the task '{thoughts.task}' names no gold answers (data.gold), which checker and paths: gold need")
    if judge.name == "implicit" and recipe.model.reference is None:
        raise AlignError("model.reference is missing: the judge 'implicit' needs the model that the policy was tuned from")
    if thoughts.keep < 1 or (thoughts.keep_at_most is not None and thoughts.keep > thoughts.keep_at_most):
        most = "or more" if thoughts.keep_at_most is None else f"to keep_at_most ({thoughts.keep_at_most})"
        raise AlignError(f"thoughts.keep is {thoughts.keep}: expected 1 {most}")


def _check_questions(recipe: Recipe, task: str) -> None:
    """The questions of a task, those that are asked and those that are tested on: a wrong column shows in the first record."""
    from data_pipelines.thought_trees.tasks import load_task, read_questions

    evaluation = recipe.evaluation
    assert recipe.rollouts is not None
    if evaluation is not None and evaluation.task != "chain_of_thought":
        section = "thoughts" if recipe.thoughts is not None else "rounds.questions"
        raise AlignError(f"evaluation.task is '{evaluation.task}': a recipe with {section} is evaluated by chain_of_thought")
    asked = [(task, recipe.rollouts.prompts, recipe.rollouts.prompts_split)]
    if evaluation is not None and evaluation.questions:
        asked.append((evaluation.questions_task or task, evaluation.questions, evaluation.questions_split))
    for asks, source, split in asked:
        if not source.startswith("micro:"):
            read_questions(load_task(asks), source, split, limit=1)


def _check_code(run: Run) -> None:
    from data_pipelines.code_execution.edges import EdgeRules
    from data_pipelines.code_execution.formats import FORMATS
    from data_pipelines.code_execution.plan import sandbox_settings
    from data_pipelines.code_execution.problems import Problem, read_problems
    from data_pipelines.code_execution.stages import open_sandbox, test_maker

    recipe, code = run.recipe, run.recipe.code
    assert code is not None
    assert recipe.rollouts is not None
    EdgeRules(code.pairing)
    if code.format not in (*FORMATS, "auto"):
        raise AlignError(f"code.format is '{code.format}': {nearest(code.format, [*FORMATS, 'auto'])}")
    if recipe.evaluation is not None and recipe.evaluation.task != "code":
        raise AlignError(f"evaluation.task is '{recipe.evaluation.task}': a recipe with code is evaluated by code")
    make = test_maker(code.tests_from)
    problems: list[Problem] = []  # the first of each set: what packages its tests import shows there
    if not recipe.rollouts.prompts.startswith("micro:"):
        problems += read_problems(recipe.rollouts.prompts, recipe.rollouts.prompts_split, format=code.format, limit=1, make_tests=make)
    if recipe.evaluation is not None and recipe.evaluation.questions:
        problems += read_problems(recipe.evaluation.questions, recipe.evaluation.questions_split, limit=1)
    for name in code.decontaminate:
        _check_data("code.decontaminate", name)
    open_sandbox(sandbox_settings(code.sandbox), problems).close()  # says what to install where the isolation cannot be had


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
    continued = recipe.task_of_questions is not None or recipe.code is not None  # prompts are texts there unless `chat` is true
    check_system(rollouts.system, tokenizer, bool(rollouts.chat) if continued else rollouts.chat is not False)


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
    rounds = run.recipe.count_of_rounds
    needed = weights * rounds + weights * (1 if run.recipe.model.lora else 7) * bool(run.recipe.training.get("save_strategy") != "no")
    place = next(path for path in [run.folder.path, *run.folder.path.absolute().parents] if path.exists())
    free = shutil.disk_usage(place).free
    if free < needed:
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
