"""`align init | convert`, and `align show --as-model-sees`: from a user's own data to a recipe that can be run."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from align.errors import AlignError

if TYPE_CHECKING:
    from align.own_data.seen import Run

_FORMS = ("trees", "pairs", "llama-factory")
_SHOWN = 1500  # characters of a run of tokens


def add(commands: Any) -> None:
    """Add these commands to a parser's."""
    about = """Look at your data and write the recipe that fits: DPO for pairs, code preferences for problems with tests, IRPO for questions
with answers, self-rewarding (with --reference: DICE) for prompts. Example: align init pairs.csv --model Qwen/Qwen2.5-0.5B-Instruct"""
    init = commands.add_parser("init", help="look at your own data and write a recipe for them", description=about)
    init.add_argument("data", help="a .jsonl, .json, .csv, .tsv or .parquet file, or a data set on the hub")
    init.add_argument("--model", required=True, help="the model to train: a folder, or a name on the hub")
    init.add_argument("--reference", help="the model that it was tuned from by DPO, if it was")
    init.add_argument("--to", type=Path, default=Path("recipe.yaml"), help="the recipe to write (default recipe.yaml)")
    init.add_argument("--split", default="train", help="of a data set on the hub (default train)")
    init.set_defaults(command=_init)
    about = """Write preferences in another form: pairs for any trainer, trees (every pair of a prompt in one record), or LLaMA-Factory's
preference form with its dataset_info.json. What the form has no place for is said. Example: align convert pairs.csv pairs.parquet"""
    convert = commands.add_parser("convert", help="write preferences in another form", description=about)
    convert.add_argument("source", metavar="IN", help="preferences in any form: a file, or a data set on the hub")
    convert.add_argument("target", metavar="OUT", type=Path, help="a .jsonl, .parquet, .csv, .tsv or .json file")
    convert.add_argument("--form", choices=_FORMS, help="default: llama-factory for .json, else pairs")
    convert.add_argument("--split", default="train", help="of a data set on the hub (default train)")
    convert.add_argument(
        "--columns",
        nargs="+",
        default=[],
        metavar="NAME=COLUMN",
        help="of pairs under other names, such as prompt=q chosen=good rejected=bad",
    )
    convert.add_argument("--overwrite", action="store_true", help="write over a file that is there already")
    convert.set_defaults(command=_convert)


def _init(options: argparse.Namespace) -> None:
    from align.own_data.looking import look_at
    from align.own_data.recipes_for_data import draft, task_file

    target: Path = options.to
    if target.suffix not in (".yaml", ".yml"):
        raise AlignError(f"--to {target}: expected a name that ends in .yaml")
    for path in (target, task_file(target)):
        if path.exists():
            raise AlignError(f"{path} is there already: give another name with --to, or remove it")
    look = look_at(options.data, options.split)
    made = draft(look, options.model, options.reference, target, options.split)
    from align.files import write_text

    if made.task is not None:
        write_text(task_file(target), made.task)
    write_text(target, made.text)
    print(f"{options.data}: {made.told[0]}")
    for sentence in made.told[1:]:
        print(f"  {sentence}")
    beside = f", and {task_file(target)}, how the questions are asked" if made.task is not None else ""
    print(f"{target}: a recipe for {made.method}{beside}. Next:")
    print(f"  align show --as-model-sees {target}")
    print(f"  align run {target} --dry-run")
    print(f"  align run {target}")


def _convert(options: argparse.Namespace) -> None:
    from align.own_data.conversion import convert, form_for

    columns: dict[str, str | None] = {}
    for given in options.columns:
        name, equals, column = given.partition("=")
        if not equals:
            raise AlignError(f"--columns {given}: expected NAME=COLUMN, such as prompt=question")
        columns[name] = column or None
    form = form_for(options.target, options.form)
    done = convert(options.source, options.target, form, options.split, columns or None, overwrite=options.overwrite)
    read = f"{done.trees:,} {'record' if done.trees == 1 else 'records'} of {options.source}"
    print(f"{options.target}: {done.records:,} {form.value} from {read}")
    for lost, count in done.lost.items():
        print(f"  not in it, for {count:,} of them: {lost}")
    if done.unusable:
        print(f"  {done.unusable:,} more records cannot be used, and are kept in {done.further[-1]} with the reasons", file=sys.stderr)
    if form.value == "llama-factory":
        print(f"  registered as '{options.target.stem}' in {done.further[0]}")


def show_as_model_sees(options: argparse.Namespace) -> None:
    """Print a recipe's first records as the model gets them."""
    from rich.console import Console
    from rich.text import Text

    from align import recipes
    from align.own_data.seen import as_model_sees

    recipe = recipes.load(options.data, options.overrides)
    console = Console(soft_wrap=True, highlight=False)
    source = recipe.data.train or (recipe.rollouts.prompts if recipe.rollouts else "")
    console.print(Text(f"{source} as {recipe.model.name_or_path} sees it; │ stands between tokens, ⏎ is a line's end."))
    for seen in as_model_sees(recipe, options.first):
        console.print(Text(f"\n{seen.where}", style="bold"))
        if seen.reason is not None:
            console.print(Text(f"  left out: {seen.reason}", style="red"))
        for run in seen.runs:
            cut = f"; {run.cut} more are cut off (training.max_length)" if run.cut else ""
            console.print(Text(f"  {run.name}, {len(run.tokens)} tokens, {run.use}{cut}:", style=_style(run)))
            console.print(Text(f"    {_joined(run)}"))


def _style(run: Run) -> str:
    return {"prompt": "dim", "chosen": "green", "rejected": "red"}.get(run.name, "cyan")


def _joined(run: Run) -> str:
    from align.files import writable

    text = writable("│".join(token.replace("\n", "⏎") for token in run.tokens))
    return text if len(text) <= _SHOWN else f"{text[: _SHOWN // 2]} … {text[-_SHOWN // 2 :]}"
