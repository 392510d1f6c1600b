"""The command line, `align COMMAND`: each module here holds the commands of one purpose."""

from __future__ import annotations

import argparse
import logging
import os
import signal
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path

from align import __version__, faults
from align.cli import listing, looking, losses, measuring, models, own_data, running
from align.cli.parsing import Parser
from align.cli.terminal import in_utf8
from align.errors import InterruptedRunError, StageFaultError, in_words
from align.imports import put_ours_first
from align.runs.watching import LOG_STEPS
from align.secrets import masked

FAULT, MISTAKE = 1, 2  # exit statuses: a fault of ours; a mistake of the user's, or a machine that fails

EVERYWHERE = {"traceback": {"--traceback"}, "quiet": {"-q", "--quiet"}, "verbose": {"-v", "--verbose"}}
"""Options of every command, which stand before it or after it."""

PURPOSES = {
    "your own data": (own_data,), "runs": (running,), "models": (models,), "measuring": (measuring,),
    "looking at what is there": (looking,), "what can be named": (listing, losses),
}  # fmt: skip
"""What groups of commands are for → the modules that have them."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; returns the exit status.

    A user's mistake is one sentence on stderr and status 2. A fault of ours is one sentence, too, and status 1; its traceback goes to a
    file. `--traceback` shows the traceback of either.
    """
    if arguments is None:
        put_ours_first()
        in_utf8()
    options = parse(arguments)
    _quiet_libraries()
    if options.traceback:
        os.environ["ALIGN_TRACEBACK"] = "1"  # for the processes of stages, too
    if options.quiet:
        os.environ[LOG_STEPS] = "0"
    if not sys.stderr.isatty():
        os.environ.setdefault("TQDM_DISABLE", "1")  # a file has no use for bars
    try:
        status = options.command(options)
    except KeyboardInterrupt:
        print("align: interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:  # whoever reads our output has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 128 + signal.SIGPIPE
    except Exception as error:
        if options.traceback:
            print(masked("".join(traceback.format_exception(error))), file=sys.stderr)
        return _told(error)
    return status or 0


def _told(error: Exception) -> int:
    """Say in one sentence what happened; returns the exit status."""
    sentence, status = faults.sentence_of(error), MISTAKE
    if isinstance(error, InterruptedRunError):
        status = 128 + signal.SIGTERM
    elif isinstance(error, StageFaultError):
        status = FAULT
    elif sentence is None and isinstance(error, OSError):
        sentence = in_words(error)
    elif sentence is None:
        sentence, status = faults.fault_of_ours(error, faults.kept(error)), FAULT
    print(f"align: {masked(' '.join(str(sentence).split()))}", file=sys.stderr)
    return status


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Parse a command line; `key=value` may stand before and after options."""
    parser = parser_of_commands()
    options, rest = parser.parse_known_args(running.with_default_rehearsal(sys.argv[1:] if arguments is None else arguments))
    for name, words in EVERYWHERE.items():  # before the command or after it
        setattr(options, name, getattr(options, name) or not words.isdisjoint(rest))
        rest = [word for word in rest if word not in words]
    if rest and (not hasattr(options, "overrides") or any(word.startswith("-") for word in rest)):
        parser.unknown(rest, options.name)
    if rest:
        options.overrides = [*options.overrides, *rest]
    return options


def _quiet_libraries() -> None:
    """Keep DeepSpeed from announcing at every import that it found no GPU, and bitsandbytes that it has no faster kernel for this CPU."""
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
    if not any(Path(device).exists() for device in ("/dev/nvidiactl", "/dev/kfd", "/dev/dxg")):
        os.environ.setdefault("DS_ACCELERATOR", "cpu")


def parser_of_commands() -> Parser:
    """The parser of command lines, with all commands."""
    parser = Parser(prog="align", description="Preference alignment on token trees. `align COMMAND --help` says more, with an example.")
    parser.add_argument("--traceback", action="store_true", help="show where in the code an error came from")
    parser.add_argument("-q", "--quiet", action="store_true", help="of a run's course say nothing but errors and what came out")
    parser.add_argument("-v", "--verbose", action="store_true", help="show all that stages write to standard error, as their logs have it")
    parser.add_argument("--version", action="version", version=f"align {__version__}", help="say which version this is, and end")
    commands = parser.add_subparsers(required=True, metavar="COMMAND", dest="name")
    for title, purposes in PURPOSES.items():
        before = set(commands.choices)
        for purpose in purposes:
            purpose.add(commands)
        parser.groups[title] = [name for name in commands.choices if name not in before]
    return parser
