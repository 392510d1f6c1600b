"""`align losses [NAME]`: what a loss computes, where it comes from, and which settings it goes by."""

from __future__ import annotations

import argparse
import inspect
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from align.cli.listing import show_names
from align.errors import AlignError
from align.imports import without_collection

if TYPE_CHECKING:
    from align.losses import Loss

_AVERAGED = {"edge": "the pairs", "chosen_token": "the tokens of the chosen responses", "free_node": "the responses that are in no pair"}


def add(commands: Any) -> None:
    """Add this command to a parser's."""
    about = """Say of a loss what it computes, where it comes from, what it reads, and which settings of `training` it goes by, with their
defaults. Without a name, every loss in a line. Example: align losses simpo"""
    losses = commands.add_parser("losses", help="say what a loss computes, its source and its settings", description=about)
    losses.add_argument("loss", nargs="?", metavar="NAME", help="a loss, by any of its usual names; or module:function of your own")
    losses.set_defaults(command=_losses)


def _losses(options: argparse.Namespace) -> None:
    if options.loss is None:
        show_names("losses")
        return
    from align.loss_names import check

    check(options.loss, "losses")
    with without_collection():
        from align.losses import expand
    try:
        parts = [loss for loss, _ in expand([options.loss])]
    except AlignError:
        raise
    except ValueError as error:  # a function of the user's own that is no loss
        raise AlignError(str(error)) from error
    if len(parts) > 1:
        print(f"{options.loss}: {' + '.join(loss.name for loss in parts)}\n")
    for number, loss in enumerate(parts):
        print("\n".join([*([""] if number else []), *described(loss)]))


def described(loss: Loss) -> Iterator[str]:
    """Lines about a loss: its docstring, its source, what it reads and averages over, its settings, and what its symbols mean."""
    from align.loss_names import ALIASES

    yield loss.name
    yield from (f"  {line}".rstrip() for line in _without_examples(loss.fn))
    rows = {"source": loss.source, "reads": ", ".join(loss.tensors), "reference": "needed" if loss.needs_reference else "none"}
    rows["mean over"] = _AVERAGED[loss.per]
    if loss.batchwise:
        rows["beware"] = "it compares the pairs of a micro-batch with each other, so its value depends on the batch size"
    if others := [alias for alias, name in ALIASES.items() if name == loss.name]:
        rows["also called"] = ", ".join(others)
    width = max(map(len, rows))
    yield from ("", *(f"  {label:<{width}}  {text}" for label, text in rows.items()))
    if loss.hyperparameters:
        yield from ("", "  settings in a recipe, with their defaults:", *_settings(loss))
    if loss.fn.__module__.startswith("align.losses."):
        yield from ("", *(f"  {line}".rstrip() for line in _without_examples(sys.modules[loss.fn.__module__])))


def _settings(loss: Loss) -> Iterator[str]:
    """A line for each hyperparameter: the key of the recipe, the default in force, and what the key's own help says."""
    from align.recipes.training_keys import training_help

    helps, parameters = training_help(), inspect.signature(loss.fn).parameters
    for name in loss.hyperparameters:
        default = parameters[name].default
        own = "must be given" if default is inspect.Parameter.empty else repr(default)
        if name not in helps:
            yield f"    training.loss_kwargs.{name}: {own}"
            continue
        shown = own if helps[name].default in ("None", "") else helps[name].default
        yield f"    training.{name}: {shown}" + (f"  {helps[name].help}" if helps[name].help else "")


def _without_examples(what: Any) -> list[str]:
    """The lines of a docstring, without its doctests and what stands behind them."""
    text = inspect.getdoc(what) or "It has no docstring."
    return text.partition("\n>>>")[0].rstrip().splitlines()
