"""`align chat | export`: looking at a trained model, and handing it on."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from align.cli.terminal import show
from align.errors import AlignError
from align.imports import without_collection

if TYPE_CHECKING:
    from align.chat import Answer

NEW = "/new"  # begins a new conversation


def add(commands: Any) -> None:
    """Add these commands to a parser's."""
    about = """Talk with a model, or with two that answer side by side. On a terminal it is a conversation (/new begins
another, Ctrl-D ends); else every line of standard input, and every --prompt, is a prompt by itself. Example:
align chat runs/mine --against Qwen/Qwen2.5-0.5B-Instruct"""
    chat = commands.add_parser("chat", help="talk with a model, side by side with another", description=about)
    model = "the folder of a run (its last model), a model's folder, or a name on the hub"
    chat.add_argument("model", metavar="MODEL", help=model)
    chat.add_argument("--against", metavar="BASE", help="another model that answers the same prompts, such as the one before training")
    chat.add_argument("--prompt", action="append", metavar="TEXT", help="answer this, and end; several times")
    chat.add_argument("--system", metavar="TEXT", help="a system message (default: none of ours)")
    chat.add_argument("--max-new-tokens", type=int, default=512, metavar="N", help="of an answer (default 512)")
    chat.add_argument("--temperature", type=float, default=0.0, metavar="T", help="of the sampling (default 0: greedy)")
    chat.add_argument("--seed", type=int, default=0, help="of the sampling (default 0)")
    chat.add_argument("--dtype", default="auto", help="of the weights (default auto: as they were saved)")
    chat.add_argument("--json", action="store_true", help="a line of JSON for each prompt, for scripts")
    chat.set_defaults(command=_chat)
    about = """Put the last model of a run where others can load it: weights, configuration, tokenizer, card. Of a training of an
adapter that is the adapter; with --merge, the whole model. Example: align export runs/mine --to models/mine"""
    export = commands.add_parser("export", help="put a run's model into a folder or on the hub", description=about)
    export.add_argument("run", type=Path, metavar="RUN", help="the folder of a run, or of a model")
    export.add_argument("--to", required=True, metavar="FOLDER", help="a new folder, or hub:OWNER/NAME (private if it is new)")
    export.add_argument("--merge", action="store_true", help="merge an adapter into its base")
    export.set_defaults(command=_export)


def _export(options: argparse.Namespace) -> None:
    with without_collection():
        from align.export import export

    done = export(options.run, options.to, merge=options.merge)
    print(f"{options.to}: {done.files} files, {done.size / 1e6:,.1f} MB, from {done.source}")
    if done.base is not None:
        print(f"  an adapter of {done.base}, which it needs to be loaded; --merge makes one model of both")


def _chat(options: argparse.Namespace) -> None:
    if options.max_new_tokens < 1:
        raise AlignError(f"--max-new-tokens {options.max_new_tokens}: expected 1 or more")
    if not options.temperature >= 0:
        raise AlignError(f"--temperature {options.temperature}: expected 0 or more")
    from align.sampling import Sampling

    with without_collection():
        from align.chat import answers, talks
    sampling = Sampling(options.max_new_tokens, options.temperature)
    models = [options.model, *([options.against] if options.against else [])]
    with talks(models, options.system, options.dtype) as several:
        talking = options.prompt is None and sys.stdin.isatty()
        for prompt in _typed() if talking else options.prompt or _lines():
            if prompt == NEW or not talking:
                for talk in several:
                    talk.messages = []
            if prompt == NEW:
                continue
            try:
                _tell(prompt, answers(several, prompt, sampling, options.seed), as_json=options.json)
            except AlignError as error:
                if not talking:
                    raise
                print(f"align: {error} ({NEW})", file=sys.stderr)


def _typed() -> Iterator[str]:
    """What is typed on the terminal, line by line, with the keys of a shell."""
    import readline  # noqa: F401  gives `input` its keys

    while True:
        try:
            line = input("\n> ").strip()
        except EOFError:
            print()
            return
        if line:
            yield line


def _lines() -> Iterator[str]:
    """The lines of standard input that are not empty."""
    for line in sys.stdin:
        if line.strip():
            yield line.strip()


def _tell(prompt: str, said: Sequence[Answer], *, as_json: bool) -> None:
    """Print answers: one below its prompt, two side by side, or as JSON."""
    if as_json:
        found = [{"model": one.model, "answer": one.text, "tokens": one.tokens, "cut": one.is_cut} for one in said]
        print(json.dumps({"prompt": prompt, "answers": found}, ensure_ascii=False), flush=True)
        return
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, padding=(0, 2, 0, 0), expand=len(said) > 1)
    for one in said:
        table.add_column(Text(one.model), ratio=1, overflow="fold")
    table.add_row(*(Text(one.text.strip() + (f" … (cut off at {one.tokens} tokens)" if one.is_cut else "")) for one in said))
    if not sys.stdin.isatty():
        show(Text(f"> {prompt}", style="bold"))
    show(table)
    sys.stdout.flush()
