"""One call of a model on a packed row: every scored token's log-prob, through whatever wraps the model."""

from __future__ import annotations

import contextlib
import functools
import types
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel
from transformers.utils import ModelOutput

from align.engine import unshared
from align.engine.attention import prepare, restore, use_backend
from align.engine.compiling import are_compiled
from align.engine.layout import TreeBatch
from align.engine.lm_head import TokenScores, head_of, score_tokens

UNSHARED = "unshared"
MODEL_LOGITS = "unshared_model_logits"


@dataclass(frozen=True)
class Wanted:
    """What a call computes beside the log-probs.

    Attributes:
        statistics: entropy, mean logits, top-1.
        sum_sq_probs: log Σ_v π(v)², for WPO.
        router_loss: the load-balancing loss of MoE models.
        hidden_sums: of each node, the sum of the last layer's states that predict its tokens, for CHES.
    """

    statistics: bool = False
    sum_sq_probs: bool = False
    router_loss: bool = False
    hidden_sums: bool = False


@dataclass
class TreeOutput(ModelOutput):
    """What a model call with `tree_batch` returns. T tokens, S scored tokens, N nodes.

    Attributes:
        logps: `[S]`, log π of each scored token; carries the gradient.
        entropy, mean_logits, is_top1, log_sum_sq_probs: `[S]`, see `TokenScores`.
        aux_loss: the router's load-balancing loss, of MoE models asked for it.
        hidden_sums: `[N, hidden size]`, float32 at least, if asked for.
    """

    logps: Tensor | None = None
    entropy: Tensor | None = None
    mean_logits: Tensor | None = None
    is_top1: Tensor | None = None
    log_sum_sq_probs: Tensor | None = None
    aux_loss: Tensor | None = None
    hidden_sums: Tensor | None = None


def install(model: PreTrainedModel, backend: str) -> None:
    """Teach a causal LM the call `model(tree_batch=..., ...)`, which returns a `TreeOutput`.

    The forward itself is patched, so that the call passes through DDP, DeepSpeed, FSDP and PEFT wrappers like any
    other; without `tree_batch` the model behaves as before. Installing again changes the backend. A copy of an
    installed model is one, too, with weights of its own.

    Args:
        model: the bare model (PEFT: its base model).
        backend: one of `attention.BACKENDS`; "unshared" runs each root-to-leaf path as its own row;
            "unshared_model_logits" does so with the logits of the model's own forward, in full.
    """
    if backend in (UNSHARED, MODEL_LOGITS):
        restore(model)
    else:
        use_backend(model, backend)
    model._align_backend = backend
    if hasattr(model.forward, "_align_tree"):
        return
    # Kept as attributes of the model, not of the patch, and bound methods both: a copy of the model gets its own.
    model._align_plain_forward = model.forward
    kind: Any = type(model)
    model.forward = types.MethodType(_forward_of(kind), model)


@functools.cache
def _forward_of(kind: Any) -> Callable[..., Any]:
    """The forward of installed models of a class."""

    @functools.wraps(kind.forward)
    def forward(self: Any, *args: Any, tree_batch: TreeBatch | None = None, want: Wanted = Wanted(), **kwargs: Any) -> Any:
        if tree_batch is None:
            with _as_written(self):
                return self._align_plain_forward(*args, **kwargs)
        assert not args, "a call with `tree_batch` names its arguments"
        return _tree_forward(self, tree_batch, want, kwargs)

    forward._align_tree = True  # type: ignore[attr-defined]
    return forward


def _as_written(model: PreTrainedModel) -> contextlib.AbstractContextManager[Any]:
    """A context for plain calls: their shapes, such as a sampled token's, do not come again, so compiled layers would be compiled anew."""
    return torch.compiler.set_stance("force_eager") if are_compiled(model) else contextlib.nullcontext()


def tree_scores(model: torch.nn.Module, batch: TreeBatch, backend: str, want: Wanted | None = None) -> TreeOutput:
    """Run an installed model (wrapped or bare) on a batch.

    Args:
        model: an installed model, or a wrapper of one.
        batch: on the model's device.
        backend: the one installed.
        want: what to compute beside the log-probs; nothing by default.
    """
    want = want or Wanted()
    if backend in (UNSHARED, MODEL_LOGITS):  # what wrappers make of plain rows (prompt tuning's embeddings) is kept
        return model(**unshared.rows(batch).inputs, tree_batch=batch, want=want, use_cache=False)
    return model(input_ids=batch.input_ids, tree_batch=batch, want=want)


def node_sums(token_values: Tensor, batch: TreeBatch) -> Tensor:
    """Sum token values node by node: `[S, …]` → `[N, …]`, in float32 at least."""
    kind = torch.promote_types(token_values.dtype, torch.float32)
    sums = torch.zeros(batch.num_nodes, *token_values.shape[1:], dtype=kind, device=token_values.device)
    return sums.index_add(0, batch.token_node, token_values.to(kind))


def _tree_forward(model: PreTrainedModel, batch: TreeBatch, want: Wanted, kwargs: dict[str, Any]) -> TreeOutput:
    if want.router_loss:
        kwargs["output_router_logits"] = True
    backend: str = model._align_backend
    vocab = model.config.get_text_config().vocab_size
    if backend == MODEL_LOGITS:
        rows, out = unshared.rows(batch), model._align_plain_forward(**kwargs, output_hidden_states=want.hidden_sums)
        hidden = rows.select(out.hidden_states[-1]) if want.hidden_sums else None
        scores = score_tokens(lambda logits: logits, rows.select(out.logits), batch.labels, vocab, want.sum_sq_probs, want.statistics)
        return _output(scores, model, out, rows.weights, want, hidden, batch)
    if backend == UNSHARED:
        rows, out = unshared.rows(batch), model.base_model(**kwargs)
        hidden, weights = rows.select(out.last_hidden_state), rows.weights
    else:
        prepare(batch.layout, model, backend)
        # A four-dimensional mask stops transformers from building one of its own; the backends read the layout.
        mask = torch.ones(1, 1, 1, 1, dtype=torch.bool, device=batch.input_ids.device)
        kwargs |= {"position_ids": batch.position_ids, "attention_mask": mask, "tree_layout": batch.layout, "use_cache": False}
        out = model.base_model(**kwargs)
        hidden, weights = out.last_hidden_state[0, batch.predictors], batch.multiplicity
    hidden = hidden.to(model.get_output_embeddings().weight.device)
    labels = batch.labels.to(hidden.device)
    most = _most_of_ranks(model, len(labels))
    scores = score_tokens(head_of(model), hidden, labels, vocab, want.sum_sq_probs, want.statistics, most)
    return _output(scores, model, out, weights, want, hidden, batch)


def _most_of_ranks(model: PreTrainedModel, count: int) -> int:
    """The largest number of scored tokens of any rank where every call of the head gathers its weight from all ranks; else the own one."""
    weight = model.get_output_embeddings().weight
    if not hasattr(weight, "ds_id"):  # DeepSpeed's mark of a weight that ZeRO-3 spreads over ranks
        return count
    most = torch.tensor(count, device=weight.device)
    torch.distributed.all_reduce(most, torch.distributed.ReduceOp.MAX)
    return int(most)


def _output(
    scores: TokenScores, model: PreTrainedModel, out: Any, weights: Tensor, want: Wanted, hidden: Tensor | None, batch: TreeBatch
) -> TreeOutput:
    aux_loss = _router_loss(model, out, weights) if want.router_loss else None
    return TreeOutput(
        logps=scores.logps,
        entropy=scores.entropy,
        mean_logits=scores.mean_logits,
        is_top1=scores.is_top1,
        log_sum_sq_probs=scores.log_sum_sq_probs,
        aux_loss=aux_loss,
        hidden_sums=node_sums(hidden.to(batch.token_node.device), batch) if want.hidden_sums and hidden is not None else None,
    )


def _router_loss(model: PreTrainedModel, out: Any, weights: Tensor) -> Tensor:
    """The load-balancing loss over the tokens of the pairs' sequences: a shared token counts once a sequence."""
    from transformers.models.mixtral.modeling_mixtral import load_balancing_loss_func

    config = model.config.get_text_config()
    experts = getattr(config, "num_experts", None) or config.num_local_experts
    return load_balancing_loss_func(out.router_logits, experts, config.num_experts_per_tok, weights)
