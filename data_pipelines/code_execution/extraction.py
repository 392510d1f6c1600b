"""From what a model wrote to the program that is run.

The rule: the last block that defines the function asked for, with what it needs from the other blocks. Examples of its use, their output,
tests, other languages and drafts stand around a program and are no part of it.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain

from data_pipelines.code_execution.blocks import Block, Source, answer_in, blocks_of, inline_code
from data_pipelines.code_execution.problems import Problem
from data_pipelines.code_execution.sandbox.inside.assertions import prepare
from data_pipelines.code_execution.sandbox.tests import Assertions, Calls, Outputs
from data_pipelines.code_execution.statements import Statement, needs, settings_of, statements
from data_pipelines.code_execution.syntax import parsed, prefix_that_parses

_READING = re.compile(r"\binput\s*\(|\bstdin\b|\bopen\s*\(\s*0|\bfileinput\b")
_WRITING = re.compile(r"\bprint\s*\(|\bstdout\b|\bos\.write\b")
_STAGED = re.compile(r"\bsys\.std(?:in|out)\s*=[^=]*(?:StringIO|open\()|\bsubprocess\b|\bunittest\b|\bpytest\b")


def program_of(response: str, problem: Problem, chat: bool) -> str:
    """The program in a response.

    For a function: the last block that defines it (one whose body is only `...` does not), with the statements that it needs from other
    blocks and from the problem's support; statements that only use it are left out. For a whole program: the last block that is one, not
    a sample of its input or output, nor a way to start it. Without fences, the Python among the prose is read the same way. A base
    model's continuation of the problem's prefix ends where the function is complete.

    Args:
        response: as the model wrote it.
        problem: what was asked.
        chat: the model was told the problem; otherwise it went on from the problem's `prefix`.

    Returns:
        A whole program. Never fails: where nothing defines what was asked for, it is the last block as it stands, and judged as it is.
    """
    answer = answer_in(response)
    target = _Target.of(problem)
    support = statements(problem.support)
    if problem.prefix and not chat:
        program = _continued(problem.prefix, answer, target, support)
        if program is not None:
            return program
    blocks = [block for block in blocks_of(answer) if block.text.strip()]
    program = _function_in(blocks, answer, problem, target, support) if target.names else _script_in(blocks, support)
    if program is not None:
        return program
    if problem.prefix and not chat and not any(block.source is Source.PYTHON for block in blocks):
        return _cut(problem.prefix + answer, target) or problem.prefix + answer
    return _as_it_stands(blocks, answer, problem, target)


@dataclass(frozen=True)
class _Target:
    """What a program must define.

    Attributes:
        names: any of these is asked for; empty for whole programs.
        owner: the class whose method it is, if it is one.
        used: names that the tests use as well, where the program has them.
    """

    names: frozenset[str]
    owner: str | None = None
    used: frozenset[str] = frozenset()

    @classmethod
    def of(cls, problem: Problem) -> _Target:
        """What the tests of a problem call."""
        tests = problem.tests
        if isinstance(tests, Outputs):
            return cls(frozenset())
        used = prepare(tests.code)[2] if isinstance(tests, Assertions) else frozenset()
        entry = tests.entry_point if isinstance(tests, Calls) else problem.entry_point
        if entry is None:
            return cls(used, None, used)
        owner, dot, method = entry.partition("().")
        return cls(frozenset({method if dot else owner}), owner if dot else None, used)

    def defined_by(self, block: Sequence[Statement]) -> bool:
        """Whether statements define it with a body, at the top level or as a method of the class `Solution`."""
        for one in block:
            named = one.binds & self.names
            if named and not one.is_stub and not one.is_foreign_import and not _calls_itself(one, named):
                return True
        return self.class_in(block) is not None

    def class_in(self, block: Sequence[Statement]) -> str | None:
        """The class of the statements that has the function as a method with a body."""
        wanted = {self.owner or "Solution"}
        for node in (node for one in block for node in one.nodes):
            if isinstance(node, ast.ClassDef) and node.name in wanted:
                methods = [inner for inner in ast.walk(node) if isinstance(inner, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Assign))]
                named = [inner for inner in methods if _method_name(inner) in self.names]
                if any(isinstance(inner, ast.Assign) or not _has_no_body(inner) for inner in named):
                    return node.name
        return None

    def roots(self, block: Sequence[Statement]) -> frozenset[str]:
        """The names of the statements that the tests need: the target, and functions, classes and modules that the tests name."""
        defined = {name for one in block if any(isinstance(node, _DEFINITIONS) for node in one.nodes) for name in one.binds}
        found = {name for one in block for name in one.binds if name in self.names} | (self.used & defined)
        owner = self.class_in(block)
        return frozenset(found | ({owner} if owner else set()))

    def adapter(self, block: Sequence[Statement]) -> str:
        """A line for a function that stands in a class though it is asked for outside, or the other way round; "" where it fits.

        The evaluators of APPS and LiveCodeBench take both.
        """
        bound = {name for one in block for name in one.binds}
        name = next(iter(self.names)) if len(self.names) == 1 else ""
        if self.owner and name and self.owner not in bound and name in bound:
            takes_self = any(_first_argument(node, name) == "self" for one in block for node in one.nodes)
            return f"class {self.owner}:\n    {name} = {name if takes_self else f'staticmethod({name})'}"
        owner = self.class_in(block)
        if not self.owner and name and name not in bound and owner:
            return f"{name} = {owner}().{name}"
        return ""


_DEFINITIONS = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.Import, ast.ImportFrom)


def _method_name(node: ast.AST) -> str:
    if isinstance(node, ast.Assign):
        return node.targets[0].id if isinstance(node.targets[0], ast.Name) else ""
    return str(getattr(node, "name", ""))


def _has_no_body(node: ast.AST) -> bool:
    return Statement("", (node,), *[frozenset[str]()] * 6).is_stub if isinstance(node, ast.stmt) else False


def _first_argument(node: ast.stmt, name: str) -> str | None:
    if isinstance(node, ast.FunctionDef) and node.name == name and node.args.args:
        return node.args.args[0].arg
    return None


def _calls_itself(statement: Statement, named: frozenset[str]) -> bool:
    """Whether a statement assigns to a name what it makes of the same name (`f = cache(f)`): the definition is elsewhere."""
    return bool(named & statement.reads_at_once) and all(isinstance(node, ast.Assign) for node in statement.nodes)


def _function_in(blocks: Sequence[Block], answer: str, problem: Problem, target: _Target, support: Sequence[Statement]) -> str | None:
    """The last block that defines the target, completed; else a body that completes the problem's prefix; else what has no body."""
    parts = [statements(block.code) for block in blocks]
    for source in Source:
        for place in reversed(range(len(blocks))):
            if blocks[place].source is source and target.defined_by(parts[place]):
                return _assembled(place, blocks[place].code, parts, target, support)
    if problem.prefix:
        texts = [block.text for block in reversed(blocks) if block.source is Source.PYTHON] or [answer]
        for text in texts:
            program = _completed(problem.prefix, text, target, support)
            if program is not None:
                return program
    for code in reversed(inline_code(answer)):
        if target.defined_by(statements(code)):
            return _assembled(0, code, [statements(code)], target, support)
    for place in reversed(range(len(blocks))):
        if any(one.binds & target.names and not one.is_foreign_import for one in parts[place]):
            return _assembled(place, blocks[place].code, parts, target, support)
    return None


def _assembled(place: int, code: str, parts: Sequence[Sequence[Statement]], target: _Target, support: Sequence[Statement]) -> str:
    """A block as a program: with what it needs from the others in front of it, and without statements that only use it."""
    block, later = parts[place], parts[place + 1 :]
    others = [list(support), *([] if number == place else list(part) for number, part in enumerate(parts))]
    patches = [one for part in later if _is_patch(part, block, target) for one in part if one.binds]
    text, before, behind = _with_needs(code, block, target.roots([*chain(*others), *block]) - _bound_by(support), others)
    program = _joined([*before, text, *behind, *(one.text for one in patches)])
    return _joined([program, target.adapter(statements(program))])


def _with_needs(
    code: str, block: Sequence[Statement], roots: frozenset[str], others: Sequence[Sequence[Statement]]
) -> tuple[str, list[str], list[str]]:
    """A block's text, what it needs in front of it, and what it needs that itself runs code of the block, behind it."""
    settings = settings_of(block)
    wanted = needs([*roots, *chain.from_iterable(one.reads for one in settings)], block, others)
    bound = _bound_by(block)
    found = [others[number][place] for number, place in wanted.others]
    if wanted.missing:
        found = [*(one for part in others for one in part if one.is_star_import and not one.is_foreign_import and one not in found), *found]
    before = [one.text for one in found if not one.reads_at_once & bound]
    behind = [one.text for one in found if one.reads_at_once & bound]
    kept = [
        one
        for number, one in enumerate(block)
        if number in wanted.own or one in settings or (one.is_harmless and (wanted.by_text or one.is_star_import)) or _is_future(one)
    ]
    if all(one.is_harmless or one in kept for one in block) or not kept:
        return code, before, behind
    return "\n".join(one.text for one in kept), before, behind


def _bound_by(block: Sequence[Statement]) -> frozenset[str]:
    return frozenset(chain.from_iterable(one.binds for one in block))


def _is_future(statement: Statement) -> bool:
    return any(isinstance(node, ast.ImportFrom) and node.module == "__future__" for node in statement.nodes)


def _is_patch(part: Sequence[Statement], block: Sequence[Statement], target: _Target) -> bool:
    """Whether a later block defines helpers of the program anew, and at most shows the program's use: a correction."""
    defined = frozenset(chain.from_iterable(one.binds for one in part if not one.is_import))
    return bool(defined) and defined <= _bound_by(block) - target.names and all(
        one.is_import or (not one.is_stub and all(isinstance(node, _DEFINITIONS) for node in one.nodes))
        or (not one.binds and bool(one.reads & target.names)) for one in part
    )  # fmt: skip


def _joined(parts: Sequence[str]) -> str:
    """Parts of a program one after the other, `from __future__` first."""
    program = "\n\n".join(part.strip("\n") for part in parts if part.strip())
    if "from __future__ import" in program and parsed(program).tree is None:
        lines = program.split("\n")
        future = [line for line in lines if line.startswith("from __future__ import")]
        program = "\n".join([*future, *(line for line in lines if line not in future)])
    return program


def _completed(prefix: str, text: str, target: _Target, support: Sequence[Statement]) -> str | None:
    """A prefix with a body behind it; None where that does not define the target."""
    start = prefix if prefix.endswith("\n") else f"{prefix}\n"
    last = next((line for line in reversed(prefix.split("\n")) if line.strip()), "")
    width = len(last) - len(last.lstrip()) + (4 if last.rstrip().endswith(":") else 0)
    lines = text.strip("\n").split("\n")
    least = min((len(line) - len(line.lstrip()) for line in lines if line.strip()), default=0)
    moved = "\n".join(" " * width + line[least:] if line.strip() else "" for line in lines)
    first = "\n".join([" " * width + lines[0].lstrip(), *lines[1:]])
    for body in (text.strip("\n"), moved, first):
        program = _continued(start, body, target, support)
        if program is not None:
            return program
    return None


def _continued(prefix: str, text: str, target: _Target, support: Sequence[Statement]) -> str | None:
    """A prefix and its continuation up to where the target is complete, with what it needs from what follows.

    A continuation often goes on with other functions, tests, or the same problem once more: its first definition counts.
    """
    for ending in (text, _without_fence(text)):
        whole = prefix + ending
        lines = whole.split("\n")
        code = "\n".join(lines[: prefix_that_parses(lines)])
        all_of_it = statements(code)
        end = next((number + 1 for number in range(len(all_of_it)) if target.defined_by(all_of_it[: number + 1])), None)
        if end is None:
            continue
        block, rest = all_of_it[:end], [one for one in all_of_it[end:] if not one.binds & target.names]
        kept = "\n".join(one.text for one in block)
        shown, before, behind = _with_needs(kept, block, target.roots(all_of_it), [list(support), rest])
        own = [one.text for one in rest if one.text in (*before, *behind)]
        front = [part for part in before if part not in own]
        adapter = target.adapter(block)
        return _joined([*front, shown, *own, adapter]) if front else "\n\n".join([shown, *own, *([adapter] if adapter else [])])
    return None


def _without_fence(text: str) -> str:
    """A continuation up to its first closing fence."""
    return re.split(r"`{3,}|~{3,}", text, maxsplit=1)[0]


def _cut(whole: str, target: _Target) -> str | None:
    """A continuation that breaks off inside the target, with as many lines as compile; None if none do."""
    lines = whole.split("\n")
    count = len(lines)
    while count:
        program = "\n".join(lines[:count])
        result = parsed(program)
        if result.tree is not None:
            return program if target.defined_by(statements(program)) else None
        count = min(count - 1, result.line)
    return None


def _script_in(blocks: Sequence[Block], support: Sequence[Statement]) -> str | None:
    """The last block that is a whole program: it reads and writes; else, it writes; else, it does anything at all."""
    parts = [statements(block.code) for block in blocks]
    programs = []
    for place, block in enumerate(blocks):
        if not parts[place] or all(_is_value(one) for one in parts[place]):
            continue
        reads = frozenset(chain.from_iterable(one.reads for one in parts[place]))
        others = [list(support), *([] if number == place else list(part) for number, part in enumerate(parts))]
        wanted = needs(reads, parts[place], others)
        found = [others[number][index].text for number, index in wanted.others]
        programs.append((block, _joined([*found, block.code])))
    for source in Source:
        mine = [program for block, program in programs if block.source is source]
        tests: tuple[re.Pattern[str], ...] = (_READING, _WRITING)
        for wanted_signs in (tests, tests[1:], ()):
            for program in reversed(mine):
                if all(sign.search(program) for sign in wanted_signs) and not _STAGED.search(program):
                    return program
        if mine:
            return mine[-1]
    return None


def _is_value(statement: Statement) -> bool:
    """Whether a statement is a bare value, as in a sample of output: `3`, `[1, 2]`, `YES`, `-1`."""
    return not any(isinstance(part, ast.Call) for node in statement.nodes for part in ast.walk(node)) and all(
        isinstance(node, ast.Expr) for node in statement.nodes
    )


def _as_it_stands(blocks: Sequence[Block], answer: str, problem: Problem, target: _Target) -> str:
    """The last block that at least mentions the target, else the last one in Python, else the answer, with the problem's support."""
    own = [block for block in blocks if block.source is Source.PYTHON] or [block for block in blocks if block.source is Source.PROSE]
    names = "|".join(map(re.escape, sorted(target.names)))
    naming = [block for block in own if target.names and re.search(rf"\b(?:def|class)\s+(?:{names})\b", block.text)]
    tagged = [block for block in own if block.tagged]
    code = answer
    if own:
        chosen = (naming or tagged or own)[-1]
        code = chosen.text if chosen in naming or not chosen.code else chosen.code
    code = code.strip("\n")
    return f"{problem.support}\n\n{code}" if problem.support else code
