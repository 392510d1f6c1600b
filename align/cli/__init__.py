"""The command line, `align COMMAND`: each module here holds the commands of one purpose."""

from __future__ import annotations

import argparse
import logging
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

from align.cli import listing, looking, measuring, own_data, running
from align.cli.terminal import in_utf8
from align.errors import AlignError, InterruptedRunError, in_words
from align.secrets import masked


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; returns the exit status. A user's mistake is one sentence on stderr and status 2."""
    if arguments is None:
        in_utf8()
    options = parse(arguments)
    _quiet_libraries()
    try:
        status = options.command(options)
    except AlignError as error:
        if options.traceback:
            raise
        print(f"align: {masked(str(error))}", file=sys.stderr)
        return 128 + signal.SIGTERM if isinstance(error, InterruptedRunError) else 2
    except KeyboardInterrupt:
        print("align: interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:  # whoever reads our output has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 128 + signal.SIGPIPE
    except OSError as error:  # a folder that cannot be made, a disk that is full or gone
        if options.traceback:
            raise
        print(f"align: {masked(in_words(error))}", file=sys.stderr)
        return 2
    return status or 0


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Parse a command line; `key=value` may stand before and after options."""
    parser = _parser()
    options, rest = parser.parse_known_args(running.with_default_rehearsal(sys.argv[1:] if arguments is None else arguments))
    if rest and (not hasattr(options, "overrides") or any(word.startswith("-") for word in rest)):
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
    if rest:
        options.overrides = [*options.overrides, *rest]
    return options


def _quiet_libraries() -> None:
    """Keep DeepSpeed from announcing at every import that it found no GPU, and bitsandbytes that it has no faster kernel for this CPU."""
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
    if not any(Path(device).exists() for device in ("/dev/nvidiactl", "/dev/kfd", "/dev/dxg")):
        os.environ.setdefault("DS_ACCELERATOR", "cpu")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="align", description="Preference alignment on token trees.")
    parser.add_argument("--traceback", action="store_true", help="show where in the code an error came from")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for purpose in (own_data, running, measuring, looking, listing):
        purpose.add(commands)
    return parser
