"""The parser of command lines: a mistake is one sentence that names the nearest right word."""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Sequence
from typing import Any, NoReturn

from align.errors import nearest

_CHOICE = re.compile(r"invalid choice: '(.*)' \(choose from .*\)")


class Parser(argparse.ArgumentParser):
    """argparse's, whose errors are one sentence like all others; also of the commands that are added to it."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        """Args: argparse's."""
        super().__init__(*arguments, **options)
        self.groups: dict[str, list[str]] = {}
        """What commands are for → their names, for the help; empty for a command itself."""

    def format_help(self) -> str:
        """The help; that of a parser with groups of commands has a section for each."""
        if not self.groups:
            return super().format_help()
        formatter = self._get_formatter()
        formatter.add_usage(self.usage, self._actions, self._mutually_exclusive_groups)
        formatter.add_text(self.description)
        commands = next(action for action in self._actions if isinstance(action, argparse._SubParsersAction))
        listed = {action.dest: action for action in commands._choices_actions}
        for title, names in self.groups.items():
            formatter.start_section(title)
            formatter.add_arguments([listed[name] for name in names])
            formatter.end_section()
        formatter.start_section("options")
        formatter.add_arguments([action for action in self._actions if action.option_strings])
        formatter.end_section()
        return formatter.format_help()

    def error(self, message: str) -> NoReturn:
        """Print what is wrong and end with status 2."""
        if (choice := _CHOICE.search(message)) is not None:
            message = f"{message[: choice.start()]}invalid choice: '{choice[1]}': {nearest(choice[1], self._choices(message))}"
        print(f"align: {' '.join(message.split())} (see `{self.prog} --help`)", file=sys.stderr)
        raise SystemExit(2)

    def unknown(self, words: Sequence[str], command: str) -> NoReturn:
        """End because of words that no option takes; names the nearest option of the command."""
        below: dict[str, argparse.ArgumentParser] = next(a.choices for a in self._actions if isinstance(a, argparse._SubParsersAction))
        options = [name for name in below[command]._option_string_actions if name.startswith("--")]
        wrong = next((word for word in words if word.startswith("-")), words[0])
        hint = nearest(wrong.partition("=")[0], options)
        below[command].error(f"unrecognized arguments: {' '.join(words)}: {hint if wrong.startswith('-') else 'it takes no more words'}")

    def _choices(self, message: str) -> list[str]:
        """The words that an argument may be, of the one that an error names."""
        actions: list[Any] = [action for action in self._actions if action.choices is not None]
        named = [action for action in actions if message.startswith(f"argument {argparse._get_action_name(action)}:")]
        return [str(choice) for action in (named or actions)[:1] for choice in action.choices]
