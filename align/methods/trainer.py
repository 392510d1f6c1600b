"""Rounds of making preferences and training on them, as trainers: what `align run` does with a recipe, from Python."""

from __future__ import annotations

import gc
import logging
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import torch
from accelerate import PartialState
from transformers import PreTrainedModel, PreTrainedTokenizerBase, TrainerCallback

from align import plans, recipes
from align.checks import check
from align.errors import AlignError
from align.experiment import train_task
from align.methods.config import (
    ChainOfPreferenceConfig,
    CodePreferenceConfig,
    DICEConfig,
    IterativeReasoningConfig,
    OnlineDPOConfig,
    RoundsConfig,
    SelfRewardingConfig,
    SELMConfig,
    StepDPOConfig,
)
from align.methods.group import lead
from align.methods.parts import StoredData, lora_section, named
from align.models import load_model, load_tokenizer
from align.runs import RunFolder, Task, execute
from align.runs.journal import WHOLE
from align.runs.stage import read_specification
from align.unused_keys import check_used, place_of

logger = logging.getLogger(__name__)
_NEW_PROCESS = 67280421310721  # torch's seed where nobody has set one


class RoundsTrainer:
    """Makes preferences, trains on them, and begins again: `DICETrainer` and the others are this class with a method's values.

    A round's preferences are made in processes that the main process starts, its training goes on in the process group that this trainer
    is called in (`accelerate launch script.py`), by a `PreferenceTrainer` of the round's own: model, optimizer, schedule and reference
    are new in each round, so that there is none for all of them, and this class is none. `args.output_dir` becomes a run's folder, as
    `align run` makes it: `align status`, `align report` and `align show` read it, and the same script started again goes on in it.

    Args:
        model: what the run starts from: a name on the hub, a folder, or a model, together with `processing_class`.
        args: the method's config.
        ref_model: the model that it was tuned from, for methods that need one; else the policy itself.
        prompts: what responses are sampled to: prompts, questions, or problems, in one of the forms that `rollouts.prompts` has; a name on
            the hub, a file, a `datasets.Dataset` or a list of records.
        train_dataset: preferences: what rounds replay, or rank beside their own samples.
        eval_dataset: preferences that each round's training is evaluated on.
        judge: what scores responses, or the paths of a search: a name of `align list scorers` or `align list judges`, a class of your
            own, or several, with `{"name": …, "weight": …, "options": …}` for one that takes more than its name.
        pair: which responses become pairs: a name of `align list pairings`, or a function of your own.
        engine: what samples: a name of `align list engines`, or a class of your own.
        processing_class: the tokenizer of a `model` that is none by name.
        peft_config: a `peft.LoraConfig`: each round trains a new adapter, merged for the round after it.
        callbacks: of each round's trainer.

    Raises:
        AlignError: settings are missing or contradict each other, by the name of the recipe's key.
    """

    config: ClassVar[type[RoundsConfig]] = RoundsConfig

    def __init__(
        self,
        model: str | PreTrainedModel,
        args: RoundsConfig | None = None,
        *,
        ref_model: str | PreTrainedModel | None = None,
        prompts: Any = None,
        train_dataset: Any = None,
        eval_dataset: Any = None,
        judge: Any = None,
        pair: Any = None,
        engine: Any = None,
        processing_class: PreTrainedTokenizerBase | None = None,
        peft_config: Any = None,
        callbacks: Sequence[TrainerCallback] = (),
    ) -> None:
        self.args = args or self.config()
        self.callbacks = list(callbacks)
        self.folder = Path(str(self.args.output_dir))
        self._stored = StoredData(self.folder)
        if not {"variants", "seeds"}.isdisjoint(self.args.recipe):
            raise AlignError(f"{type(self).__name__}: variants and seeds are runs of a recipe, and a trainer is one run: give args.seed")
        options = {name: value for name, value in (self.args.model_init_kwargs or {}).items() if value is not None}
        sections = self.args.sections()
        parts: dict[str, Any] = {
            **{f"model.{name}": str(value).removeprefix("torch.") for name, value in options.items()},
            "model.name_or_path": self._stored.model(model, processing_class, "model"),
            "model.reference": self._stored.model(ref_model, processing_class, "ref_model"),
            "model.lora": lora_section(peft_config),
            "data.train": self._stored.source(train_dataset, "train_dataset"),
            "data.eval": self._stored.source(eval_dataset, "eval_dataset"),
            "rollouts.prompts": self._stored.source(prompts, "prompts"),
            "rollouts.engine": None if engine is None else named(engine, "engine"),
            **_judge(judge, sections),
            **_pair(pair, sections),
        }
        if self.args.processes is None and PartialState().num_processes > 1:
            parts["resources.processes"] = PartialState().num_processes
        given = {key: value for key, value in parts.items() if value is not None}
        self.recipe = recipes.parse(recipes.with_changes(sections, given, type(self).__name__), type(self).__name__)
        check_used(self.recipe, [place_of(key) for key in self.args.written()])
        seeded = recipes.variant(self.recipe, None, int(self.args.seed))
        self._run = plans.Run(self.folder.name, seeded, RunFolder(self.folder), plans.stages_of(seeded))

    def train(self) -> Path:
        """Carry out what is left of the run; on every process of the group.

        Returns:
            The folder of the last round's model.

        Raises:
            AlignError: a stage failed; what it finished is kept.
        """
        lead(self._carry_out, self._join, self.folder)
        if self.args.push_to_hub and PartialState().is_main_process:
            self.push_to_hub()
        return self.model_path

    @property
    def model_path(self) -> Path:
        """The folder of the last round's model. Raises AlignError where no training is finished."""
        return Path(plans.last_training(self._run)["model"])

    @property
    def model(self) -> Any:
        """The last round's model, loaded from its folder. Raises AlignError where no training is finished."""
        return load_model(str(self.model_path), dtype=self.recipe.model.dtype)

    @property
    def processing_class(self) -> PreTrainedTokenizerBase:
        """The last round's tokenizer. Raises AlignError where no training is finished."""
        return load_tokenizer(str(self.model_path))

    def save_model(self, output_dir: str) -> None:
        """Copy the last round's model, with tokenizer and card."""
        if PartialState().is_main_process:
            shutil.copytree(self.model_path, output_dir, dirs_exist_ok=True)

    def push_to_hub(self, repository: str | None = None) -> str:
        """Upload the last round's model; returns its address.

        Args:
            repository: its name; left out, `args.hub_model_id`, else the name of the run's folder.
        """
        from huggingface_hub import HfApi

        hub = HfApi(token=self.args.hub_token)
        place = hub.create_repo(repository or self.args.hub_model_id or self.folder.name, private=self.args.hub_private_repo, exist_ok=True)
        branch = self.args.hub_revision
        if branch is not None:
            hub.create_branch(place.repo_id, branch=branch, exist_ok=True)
        hub.upload_folder(folder_path=self.model_path, repo_id=place.repo_id, revision=branch)
        return str(place)

    def _carry_out(self, tell: Any) -> None:
        """The run's stages on the main process; of a training, all others are told."""
        self._stored.write()
        self._run.folder.path.mkdir(parents=True, exist_ok=True)
        check(self._run)
        plans.write_recipe(self._run)

        def train(task: Task) -> None:
            tell(str(task.folder))
            self._train(task)

        execute(self._run.stages, self._run.folder, here={plans.TRAINING: train})
        self._report()

    def _join(self, folder: str) -> None:
        """A training on one of the other processes."""
        self._train(read_specification(Path(folder), WHOLE)[1])

    def _train(self, task: Task) -> None:
        wandb = sys.modules.get("wandb")
        own_run = getattr(wandb, "run", None)
        with torch.random.fork_rng(devices=[]):  # a new adapter is drawn as in a process of the stage's own
            torch.default_generator.manual_seed(_NEW_PROCESS)
            trainer = train_task(task, self.callbacks)
        if trainer is not None:
            trainer.accelerator.free_memory()
        del trainer
        gc.collect()  # what samples next needs the memory
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        wandb = sys.modules.get("wandb")
        if own_run is None and getattr(wandb, "run", None) is not None:
            wandb.finish()  # type: ignore[union-attr]  # steps are counted anew in the next round

    def _report(self) -> None:
        from eval.report import write_report

        try:
            write_report([self.folder], self.folder / "report.html")
        except Exception as error:  # the run is done, whatever becomes of its report
            logger.warning("%s could not be written (%s: %s)", self.folder / "report.html", type(error).__name__, error)


def _judge(judge: Any, sections: dict[str, Any]) -> dict[str, Any]:
    """The recipe's keys of what scores responses, or the paths of a search.

    Raises:
        AlignError: the method has no use for it, or for several.
    """
    if judge is None:
        return {}
    if "code" in sections:
        raise AlignError("judge is of no use where tests judge programs: leave it out")
    choices = [_choice(each) for each in (judge if isinstance(judge, list | tuple) else [judge])]
    if "thoughts" not in sections:
        return {"rounds.scorers": choices}
    if len(choices) > 1:
        raise AlignError(f"judge has {len(choices)} entries: the paths of a search have one judge")
    return {"thoughts.judge": {**sections["thoughts"].get("judge", {}), "options": {}, **choices[0]}}


def _choice(judge: Any) -> dict[str, Any]:
    return {**judge, "name": named(judge["name"], "judge")} if isinstance(judge, dict) else {"name": named(judge, "judge")}


def _pair(pair: Any, sections: dict[str, Any]) -> dict[str, Any]:
    """The recipe's key of which responses become pairs.

    Raises:
        AlignError: the method has no use for it.
    """
    if pair is None:
        return {}
    if "thoughts" in sections:
        raise AlignError("pair is of no use with a search, which has pairs of its own: see thoughts.edges")
    return {"code.pairing" if "code" in sections else "rounds.pairing": named(pair, "pair")}


class DICETrainer(RoundsTrainer):
    """A model tuned by DPO ranks its own responses by its implicit rewards (DICE, arXiv 2406.09760). Needs `ref_model`, `prompts`, and
    with `replay` a `train_dataset`."""

    config = DICEConfig


class SELMTrainer(RoundsTrainer):
    """Optimistic DPO in rounds, ranked by a reward model (SELM, arXiv 2405.19332). Needs `prompts`, `train_dataset`, and as judge
    `{"name": "reward_model", "options": {"model": …}}`."""

    config = SELMConfig


class SelfRewardingTrainer(RoundsTrainer):
    """The policy grades its own responses (arXiv 2401.10020). Needs `prompts`."""

    config = SelfRewardingConfig


class IterativeReasoningTrainer(RoundsTrainer):
    """Chains of thought that end in the right answer over wrong ones (IRPO, arXiv 2404.19733). Needs `prompts`, questions with their gold
    answers, and `args.task`."""

    config = IterativeReasoningConfig


class OnlineDPOTrainer(RoundsTrainer):
    """Many short rounds on new prompts each, ranked by a judge, the start model as reference in all of them (OAIF, arXiv 2402.04792). Needs
    `prompts`; ranks by the policy's own grades unless `judge` says otherwise."""

    config = OnlineDPOConfig


class ChainOfPreferenceTrainer(RoundsTrainer):
    """Steps that a tree-of-thought search kept over those that it dropped (CPO, arXiv 2406.09136). Needs `prompts`, questions, and
    `args.task`."""

    config = ChainOfPreferenceConfig


class StepDPOTrainer(RoundsTrainer):
    """The first wrong step of a chain of thought under right ones that follow the same steps (Step-DPO, arXiv 2406.18629). Needs
    `prompts`, questions with their gold answers, and `args.task`."""

    config = StepDPOConfig


class CodePreferenceTrainer(RoundsTrainer):
    """Programs that pass their tests over programs that fail (arXiv 2410.18585). Needs `prompts`, problems with their tests."""

    config = CodePreferenceConfig
