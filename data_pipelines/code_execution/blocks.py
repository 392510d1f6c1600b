"""A model's answer as blocks: what stands in its fences, and the Python that stands outside them.

Fences are read more freely than Markdown reads them, because models write them so: a closing fence at the end of a line of code, code
behind an opening fence, fences that are never closed, a fence in a docstring, which closes nothing.
"""

from __future__ import annotations

import re
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum, auto

from data_pipelines.code_execution.syntax import as_python, begins_python, parsed, parses, piece_at

_TRIES = 16  # closing fences that are tried for one opening fence
_TRIES_OF_PROSE = 200  # lines that begin like Python and are none
_FAR = 200  # lines after which no closing fence is looked for that nothing opened
_THOUGHT = r"(?:seed:)?(?:think|thinking|thought|thoughts|reasoning|scratchpad)"
_THOUGHT_ENDS = re.compile(rf"</{_THOUGHT}>|\[/THINK\]|◁/think▷|<\|channel\|>final<\|message\|>|assistantfinal", re.IGNORECASE)
_THOUGHT_BEGINS = re.compile(rf"<{_THOUGHT}>|\[THINK\]|◁think▷", re.IGNORECASE)
_ENDS = re.compile(r"<\|(?:endoftext|endofmask|im_end|eot_id|eom_id|end|end_of_text|return|file_separator)\|>|<end_of_turn>|</s>\s*\Z")
_TERMINAL = re.compile(r"\x1b(?:[@-Z\\-_]|\[[0-?]*[ -/]*[@-~])")  # colours and cursor movements

_HTML = re.compile(r"^[ \t]*<pre\b[^>]*>\s*?(?:<code\b[^>]*>)?(.*?)(?:</code>\s*)?</pre>", re.DOTALL | re.IGNORECASE | re.MULTILINE)

_INDENT = r"(?P<indent>[ \t]*(?:>[ \t]?)*(?:(?:[-*+]|\d+[.)])[ \t]+)?)"
_OPENING = re.compile(_INDENT + r"(?P<fence>`{3,}|~{3,})(?P<info>[^`]*)$")
_ONE_LINE = re.compile(_INDENT + r"(?P<fence>`{3,})(?P<info>[^`]+)`{3,}[ \t.]*$")
_AFTER_TEXT = re.compile(r"(?P<indent>)[ \t]*[^`\s][^`]*(?P<fence>`{3,})(?P<info>[ \t]*[\w+.#-]*[ \t]*)$")
_LANGUAGE = re.compile(r"[ \t]*\{?[ \t]*\.?(?P<name>[A-Za-z][\w+#.-]*)(?P<rest>.*)$")
_PYTHON = re.compile(r"(?:i?py(?:thon|con|py)?|sage|cython|micropython|code)[\d.]*$", re.IGNORECASE)
_OTHER = frozenset(
    """
    ada apl asm assembly awk bash bat batch c c# c++ cc clj clojure cmake cmd coffeescript console cpp cs csharp css csv cu cuda cxx d dart
    diff dockerfile elixir elm erlang f90 fish forth fortran fsharp go golang graphql groovy h haskell hpp hs html http ini input java
    javascript jinja js json json5 jsonc jsonl jsx julia kotlin kt latex less lisp log lua make makefile markdown math mathematica matlab md
    mermaid nim none objc objective-c ocaml out output pascal perl php pl plain plaintext powershell prolog properties proto ps1 r racket rb
    result rs ruby rust sas scala scheme scss sh shell shell-session sml solidity sql stderr stdin stdout svelte swift systemverilog tcl
    terminal tex text toml ts tsv tsx txt typescript v vb verilog vhdl vim vue xml yaml yml zig zsh
    """.split()  # noqa: SIM905
)


class Source(Enum):
    """Where a block's text comes from, in the order in which a program is looked for."""

    PYTHON = auto()
    """A fence that says Python, or nothing, or nothing known."""
    PROSE = auto()
    """Outside of any fence."""
    OTHER = auto()
    """A fence that says another language."""


@dataclass(frozen=True)
class Block:
    """A piece of an answer.

    Attributes:
        text: as it stands there.
        source: where that is.
        tagged: the fence says Python.
        code: the Python in it; "" where nothing compiles.
    """

    text: str
    source: Source
    tagged: bool
    code: str


def answer_in(response: str) -> str:
    """What a response says after its thoughts, up to a token that ends it, with plain line ends.

    Thoughts end at their last closing tag, whether or not the opening one is there: templates may have put it into the prompt. Where
    they never end, the response is all there is.
    """
    text = _TERMINAL.sub("", response).replace("\r\n", "\n").replace("\r", "\n").replace("\x00", "")
    closing = [*_THOUGHT_ENDS.finditer(text)]
    if closing:
        opening = _THOUGHT_BEGINS.search(text)
        before = text[: opening.start()] if opening is not None and opening.start() < closing[-1].start() else ""
        text = f"{before.rstrip()}\n{text[closing[-1].end() :]}" if before.strip() else text[closing[-1].end() :]
    ending = _ENDS.search(text)
    return text[: ending.start()] if ending else text


@dataclass(frozen=True)
class _Fence:
    """An opening fence.

    Attributes:
        mark: its characters.
        indent: what stands in front of it.
        language: "python", "other", or "" for none known.
        first: code that stands behind it on its line.
    """

    mark: str
    indent: str
    language: str
    first: str

    @property
    def may_be_python(self) -> bool:
        """Whether it says no other language."""
        return self.language != "other"


def blocks_of(answer: str) -> list[Block]:
    """The blocks of an answer, in order: fences, and Python outside of fences."""
    if "```" not in answer:
        answer = _HTML.sub(r"```\n\1\n```", answer)
    lines, start, found, failed = answer.split("\n"), 0, list[Block](), 0
    while start < len(lines):
        fence = _opening(lines[start])
        if fence is not None:
            content, start = _content(lines, start, fence)
            found.append(_block(content, fence))
            continue
        piece, after = _prose_at(lines, start) if failed < _TRIES_OF_PROSE else ("", start)
        if piece:
            found.append(Block(piece, Source.PROSE, False, piece))
        failed += after == start and begins_python(lines[start])
        start = max(after, start + 1)
    return found


def _prose_at(lines: Sequence[str], start: int) -> tuple[str, int]:
    """The Python outside of fences at a line, which may end with a fence that nothing opened, and the line after it."""
    piece, after = piece_at(lines, start)
    if piece or after > start or not lines[start].strip():
        return piece, after
    close = next((place for place in range(start, min(len(lines), start + _FAR)) if _closes_behind_code(lines[place], "```")), None)
    if close is None:
        return "", start
    cut = [*lines[start:close], lines[close].rstrip().rstrip("`")]
    piece, count = piece_at(cut, 0)
    return (piece, close + 1) if count == len(cut) else ("", start)


def inline_code(answer: str) -> list[str]:
    """Python between backticks in a text: `f = lambda x: x`."""
    return [text for _, text in re.findall(r"(?<!`)(`{1,3})([^`]+)\1(?!`)", answer) if parses(text)]


def _opening(line: str) -> _Fence | None:
    if "```" not in line and "~~~" not in line:
        return None
    match = _OPENING.match(line) or _ONE_LINE.match(line) or _AFTER_TEXT.match(line)
    if match is None:
        return None
    language, first = _language(match["info"])
    return _Fence(match["fence"], match["indent"], language, first)


def _language(info: str) -> tuple[str, str]:
    """The language that stands behind an opening fence, and the code behind that, if it is code."""
    match = _LANGUAGE.match(info)
    if match is None:
        return "", ""
    name, rest = match["name"].rstrip("."), match["rest"].rstrip("} \t")
    if _PYTHON.match(name):
        return "python", _code(rest)
    if name.lower() in _OTHER:
        return "other", ""
    return "", _code(info)  # a title, a file's name, or the first line of code


_CODE = re.compile(r"[ \t]*(?:(?:def|class|async def|import|from)[ \t]+\w|@\w|print\(|\w+ = )")


def _code(text: str) -> str:
    """Text behind a fence where it begins a program; "" where it is a title or an option."""
    return text.strip() if _CODE.match(text) else ""


def _content(lines: Sequence[str], start: int, fence: _Fence) -> tuple[list[str], int]:
    """The lines of a fence that opens at a line, and the line after it."""
    if _ONE_LINE.match(lines[start]):
        return ([fence.first] if fence.first else []), start + 1
    head = [fence.first] if fence.first else []
    mark = re.escape(fence.mark[0])
    closing = re.compile(rf"[ \t>]*{mark}{{{len(fence.mark)},}}(?P<rest>.*)$")
    first_close, tries = None, 0
    for place in range(start + 1, len(lines)):
        match = closing.match(lines[place])
        ends_here = match is None and _closes_behind_code(lines[place], fence.mark)
        if match is None and not ends_here:
            continue
        tries += 1
        content = [*head, *lines[start + 1 : place]]
        if ends_here:
            whole = [*content, lines[place].rstrip().rstrip(fence.mark[0])]
            if tries <= _TRIES and parses(_left("\n".join(whole), fence.indent)):
                return whole, place + 1
            continue
        assert match is not None
        closed = content, place if _reopens(match["rest"]) else place + 1
        if not fence.may_be_python or not parsed(_left("\n".join(content), fence.indent)).in_string:
            return closed
        first_close = first_close or closed
        if tries > _TRIES:
            break
    return first_close or ([*head, *lines[start + 1 :]], len(lines))


def _reopens(rest: str) -> bool:
    """Whether what stands behind a fence is a language: the fence before was never closed."""
    return re.fullmatch(r"[ \t]*\{?\.?[\w+#-]+\}?[ \t]*", rest) is not None and _language(rest)[0] != ""


def _closes_behind_code(line: str, mark: str) -> bool:
    """Whether a line of code ends with the closing fence."""
    return line.rstrip().endswith(mark) and line.count(mark) % 2 == 1 and bool(line.replace(mark, "").strip())


def _left(text: str, indent: str) -> str:
    """Text moved to the left by what stands before its fence; wholly to the left where it does not compile so."""
    if ">" in indent:
        text = re.sub(r"^[ \t]*(?:>[ \t]?)+", "", text, flags=re.MULTILINE)
    width = len(indent.expandtabs(4))
    moved = "\n".join(_moved(line, width) for line in text.split("\n")) if width else text
    if parses(moved) or parsed(moved).in_string:
        return moved
    dedented = textwrap.dedent(text)
    if not width or parses(dedented) or parsed(dedented).in_string:
        return dedented
    return textwrap.dedent(text.expandtabs(4))


def _moved(line: str, width: int) -> str:
    """A line without its first blanks, `width` columns of them at most."""
    column, place = 0, 0
    while place < len(line) and line[place] in " \t" and column < width:
        column += 4 if line[place] == "\t" else 1
        place += 1
    return line[place:]


def _block(content: Sequence[str], fence: _Fence) -> Block:
    text = "\n".join(content)
    moved = _left(text, fence.indent)
    source = Source.PYTHON if fence.may_be_python else Source.OTHER
    return Block(text, source, fence.language == "python", as_python(moved))
