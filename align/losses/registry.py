"""The loss registry: a loss is a pure function whose parameter names say which tensors it reads.

A registered function takes tensors of shape `[edges]` by the names in `EDGE_TENSORS` (or `[free_nodes]` by
`FREE_NODE_TENSORS`) and hyperparameters as keyword-only arguments, and returns one value an edge (or free node).
`evaluate` passes each function what its signature asks for, so a new loss is one function and one decorator; its own hyperparameters
are given by `PreferenceConfig.loss_kwargs`. The default of
its `beta` is its authors': what a user gets who names the loss and no β.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor

from align.errors import AlignError, nearest
from align.loss_names import COMPOSITES, canonical, unknown
from align.registry import imported

EDGE_TENSORS = (
    "chosen_logps",  # log π(y⁺ | x), summed over tokens
    "rejected_logps",
    "ref_chosen_logps",  # log π₀(y⁺ | x)
    "ref_rejected_logps",
    "chosen_logratios",  # chosen_logps − ref_chosen_logps
    "rejected_logratios",
    "chosen_scores",  # f-divergence score of the log-ratio; the log-ratio itself for reverse KL
    "rejected_scores",
    "chosen_lengths",  # scored tokens
    "rejected_lengths",
    "margins",  # per-edge target margin, in units of reward
)
FREE_NODE_TENSORS = ("free_logratios",)
_REFERENCE_TENSORS = {name for name in EDGE_TENSORS + FREE_NODE_TENSORS if "ref" in name or "ratio" in name or "score" in name}


@dataclass(frozen=True)
class Loss:
    """A registered loss.

    Attributes:
        name: its name in `loss_type`.
        fn: tensors → `[edges]` or `[free_nodes]`.
        source: paper and equation.
        tensors: names of the tensors it reads.
        hyperparameters: names of its keyword-only arguments.
        per: what one value belongs to and what a step averages over: "edge", "chosen_token" or "free_node".
        batchwise: its value depends on which edges share a micro-batch (a sort or a batch mean), so that, by its
            own definition, packing changes it.
    """

    name: str
    fn: Callable[..., Tensor]
    source: str
    tensors: tuple[str, ...]
    hyperparameters: tuple[str, ...]
    per: str
    batchwise: bool

    @property
    def needs_reference(self) -> bool:
        """Whether it reads the reference's log-probs."""
        return not _REFERENCE_TENSORS.isdisjoint(self.tensors)

    @property
    def required(self) -> tuple[str, ...]:
        """Hyperparameters without a default."""
        parameters = inspect.signature(self.fn).parameters
        return tuple(name for name in self.hyperparameters if parameters[name].default is inspect.Parameter.empty)

    @property
    def default_beta(self) -> float | None:
        """β where the user names none, its authors' (`beta`'s default in its signature); None for a loss without β."""
        return inspect.signature(self.fn).parameters["beta"].default if "beta" in self.hyperparameters else None

    @property
    def supports_f_divergence(self) -> bool:
        """Whether log Z cancels in it: it sees the policy only through the difference of scores."""
        return {"chosen_logratios", "rejected_logratios", "ref_chosen_logps", "free_logratios"}.isdisjoint(self.tensors)


LOSSES: dict[str, Loss] = {}


def register(
    name: str, *, source: str, per: str = "edge", batchwise: bool = False
) -> Callable[[Callable[..., Tensor]], Callable[..., Tensor]]:
    """Enter a loss function in the registry under `name`.

    Args:
        name: the name users write in `loss_type`.
        source: paper and equation.
        per: "edge", "chosen_token" or "free_node" (see `Loss.per`).
        batchwise: see `Loss.batchwise`.

    Raises:
        ValueError: the function reads a tensor that there is not.
    """

    def enter(fn: Callable[..., Tensor]) -> Callable[..., Tensor]:
        parameters = inspect.signature(fn).parameters.values()
        tensors = tuple(p.name for p in parameters if p.kind is p.POSITIONAL_OR_KEYWORD)
        known = (*EDGE_TENSORS, *FREE_NODE_TENSORS)
        if unknown := [tensor for tensor in tensors if tensor not in known]:
            raise ValueError(f"The loss '{name}' reads '{unknown[0]}': {nearest(unknown[0], known)}")
        hyper = tuple(p.name for p in parameters if p.kind is p.KEYWORD_ONLY)
        LOSSES[name] = Loss(name, fn, source, tensors, hyper, per, batchwise)
        return fn

    return enter


def get_loss(name: str) -> Loss:
    """Look a loss up by name or by one of its usual names; "module:function" is one of the user's own, registered there or not.

    Raises:
        ValueError: no such loss; names the nearest one and lists all. Or the user's function reads a tensor that there is not.
        AlignError: "module:function" cannot be imported.

    >>> get_loss("sigmoid").needs_reference, get_loss("dpo").name
    (True, 'sigmoid')
    """
    name = name if name in LOSSES else canonical(name)
    if name in LOSSES:
        return LOSSES[name]
    if ":" in name:
        function = imported(name, "loss_type")
        if not callable(function):
            raise ValueError(f"`loss_type` names '{name}', which is no function.")
        own = next((loss for loss in LOSSES.values() if loss.fn is function), None)
        if own is None:
            register(name, source=f"{function.__module__}")(function)
        return own or LOSSES[name]
    raise ValueError(unknown(name, [*LOSSES]))


def expand(names: Sequence[str], weights: Sequence[float] | None = None) -> list[tuple[Loss, float]]:
    """Resolve loss names (composites such as `selm` included) and their weights.

    >>> [(loss.name, weight) for loss, weight in expand(["selm"])]
    [('sigmoid', 1.0), ('optimism', 1.0)]
    """
    weights = [1.0] * len(names) if weights is None else weights
    if len(weights) != len(names):
        raise ValueError(f"`loss_weights` has {len(weights)} numbers for {len(names)} losses in `loss_type`.")
    given = zip(map(canonical, names), weights, strict=True)
    return [(get_loss(part), weight) for name, weight in given for part in COMPOSITES.get(name, (name,))]


def evaluate(loss: Loss, tensors: Mapping[str, Tensor], hyperparameters: Mapping[str, float | None]) -> Tensor:
    """Call one loss with what its signature asks for.

    Args:
        loss: from `get_loss`.
        tensors: the tensors of `EDGE_TENSORS` / `FREE_NODE_TENSORS` at hand.
        hyperparameters: any superset of what the loss takes; `None` values are left to the function's default.

    Returns:
        The loss's values, `[edges]` or `[free_nodes]`.

    Raises:
        ValueError: a tensor that the loss reads is missing (the reference's log-probs, for instance), or its values are not one for each.
    """
    optional = {p.name for p in inspect.signature(loss.fn).parameters.values() if p.default is not p.empty}
    missing = [name for name in loss.tensors if name not in tensors and name not in optional]
    if missing:
        raise ValueError(f"Loss '{loss.name}' reads {', '.join(missing)}, which this batch does not have.")
    chosen = {k: v for k, v in hyperparameters.items() if k in loss.hyperparameters and v is not None}
    inputs = {name: tensors[name] for name in loss.tensors if name in tensors}
    values = loss.fn(**inputs, **chosen)
    shapes = {tensor.shape for tensor in inputs.values() if isinstance(tensor, Tensor) and tensor.dim()}
    if not isinstance(values, Tensor) or (shapes and values.shape not in shapes):
        given = f"values of the shape {[*values.shape]}" if isinstance(values, Tensor) else type(values).__name__
        raise AlignError(f"Loss '{loss.name}' gives {given}: expected one value for each of its inputs, of the shape {[*shapes.pop()]}.")
    return values
