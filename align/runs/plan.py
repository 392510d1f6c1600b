"""What a run still has to do: every stage's key, compared with what its folder holds."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from align.errors import AlignError, nearest
from align.runs.digest import ExternalDigests, digest_of, part_digest
from align.runs.folder import RunFolder
from align.runs.stage import External, Output, Stage

Kind = Literal["done", "resume", "restore", "run", "wait"]


@dataclass(frozen=True)
class State:
    """Where a stage stands.

    Attributes:
        kind: "done"; "resume" (begun with these settings and inputs); "restore" (done before, set aside since);
            "run"; "wait" (its inputs are not made yet, so whether it must run is not known).
        key: of settings and inputs; None while an input is not made.
        reason: why it is not done, in words.
        altered: the output that another stage needs and that is no longer what this one wrote.
    """

    stage: Stage
    kind: Kind
    key: str | None
    reason: str = ""
    altered: str = ""


def assess(stages: Sequence[Stage], folder: RunFolder, altered: Callable[[str, str], str] | None = None) -> list[State]:
    """Every stage's state, in order.

    Args:
        stages: in an order in which each follows its inputs.
        folder: of the run.
        altered: what is wrong with an output of a finished stage that another one needs, "" where nothing is; left out, its size is
            looked at.

    Raises:
        AlignError: two stages have one name, and so one folder.
    """
    names = Counter(stage.name for stage in stages)
    if twice := [name for name, count in names.items() if count > 1]:
        raise AlignError(f"two stages of the run are called '{twice[0]}': each writes into a folder of its name, and needs one of its own")
    altered = altered or folder.altered
    externals = ExternalDigests(folder.path / "inputs.json")
    states: dict[str, State] = {}
    for stage in stages:
        states[stage.name] = _state(stage, folder, states, externals)
    for stage in reversed(stages):  # a finished stage whose output was deleted or cut runs again where somebody needs it
        if states[stage.name].kind in ("resume", "run"):
            for source in stage.inputs.values():
                if isinstance(source, Output) and (state := states[source.stage]).kind == "done":
                    reason = altered(source.stage, source.path)
                    states[source.stage] = State(state.stage, "run", state.key, reason, source.path) if reason else state
    return [states[stage.name] for stage in stages]


def up_to(stages: Sequence[Stage], name: str | None) -> list[Stage]:
    """The stages up to and including one.

    Raises:
        AlignError: no such stage; names the nearest.
    """
    if name is None:
        return list(stages)
    names = [stage.name for stage in stages]
    if name not in names:
        raise AlignError(f"--until {name}: there is no such stage: {nearest(name, names)}")
    return list(stages[: names.index(name) + 1])


def _state(stage: Stage, folder: RunFolder, states: dict[str, State], externals: ExternalDigests) -> State:
    digests = {}
    for name, source in stage.inputs.items():
        if isinstance(source, External):
            digests[name] = externals(source.source)
            continue
        if states[source.stage].kind != "done":
            return State(stage, "wait", None, f"after {source.stage}")
        manifest = folder.manifest(source.stage)
        assert manifest is not None
        digest = part_digest(manifest["outputs"], source.path)
        if digest is None:
            raise AlignError(f"{folder.stage(source.stage)}: the stage is done, but made no {source.path}")
        digests[name] = digest
    key = digest_of([stage.function, dict(stage.settings), digests])
    manifest = folder.manifest(stage.name)
    if manifest is not None and manifest["key"] == key:
        return State(stage, "done", key)
    if folder.has_superseded(stage.name, key):
        return State(stage, "restore", key, "done before with these settings")
    begun = folder.key_in_work(stage.name)
    if begun == key and manifest is None:
        return State(stage, "resume", key, "interrupted")
    return State(stage, "run", key, "not begun" if begun is None else "its settings or inputs changed")
