"""What the site takes from elsewhere: pages from the recipe's schema, the command line, the registries, the docstrings; files above docs/.

A hook of mkdocs (see `hooks` in mkdocs.yml). Nothing that it makes stands anywhere else, so that none of it can go stale.
"""

from __future__ import annotations

import argparse
import ast
import json
import os
import re
import runpy
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

from align.cli import parser_of_commands
from align.cli.listing import KINDS
from align.loss_names import ALIASES
from align.losses import COMPOSITES, LOSSES

ROOT = Path(__file__).parent.parent
TAKEN_IN = {
    "README.md": "index.md",
    "CHANGELOG.md": "changelog.md",
    "CONTRIBUTING.md": "contributing.md",
    "SECURITY.md": "security.md",
    "scripts/slurm/README.md": "guides/slurm.md",
}
"""A file of the repository → the page that it is on the site."""
PACKAGES = ("align", "data_pipelines", "eval")
NOT_PYTHON = ("align.cli",)
"""Packages with a page of another kind."""
LINK = re.compile(r"\[([^\]]+)\]\(([^)\s]+)\)")


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Add the pages of the Python packages to the navigation."""
    reference = next(entry["Reference"] for entry in config.nav or [] if "Reference" in entry)
    reference.append({"Python": [{package: _python_page(package)} for package in modules_by_package()]})
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages that are made, and those that stand elsewhere in the repository."""
    pages = {page: (ROOT / source).read_text(encoding="utf-8") for source, page in TAKEN_IN.items()}
    pages["reference/recipe.md"] = recipe_keys()
    pages["reference/commands.md"] = commands()
    pages["reference/losses.md"] = losses()
    pages["reference/parts.md"] = parts()
    pages["reference/messages.md"] = messages()
    pages |= {_python_page(package): python_page(package, modules) for package, modules in modules_by_package().items()}
    for page, text in pages.items():
        files.append(File.generated(config, page, content=text))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Let links between files of the repository lead from page to page of the site; a link to a file that is no page becomes its name."""
    uri = page.file.src_uri
    source = next((file for file, taken in TAKEN_IN.items() if taken == uri), f"docs/{uri}")

    def moved(link: re.Match[str]) -> str:
        text, (target, _, anchor) = link[1], link[2].partition("#")
        if "://" in target or not target:
            return link[0]
        file = os.path.normpath(os.path.join(os.path.dirname(source), target))
        to = TAKEN_IN.get(file) or (file.removeprefix("docs/") if file.startswith("docs/") else None)
        if to is None and (ROOT / file).exists():
            return text
        return link[0] if to is None else f"[{text}]({os.path.relpath(to, os.path.dirname(uri) or '.')}{'#' + anchor if anchor else ''})"

    return LINK.sub(moved, markdown)


def recipe_keys() -> str:
    """Every key of a recipe, from its JSON schema: a table for each section."""
    schema = json.loads((ROOT / "recipes/recipe.schema.json").read_text(encoding="utf-8"))
    definitions: dict[str, Any] = schema["$defs"]
    lines = [
        "# Recipe keys", "",
        "Made from `recipes/recipe.schema.json` (`align schema` writes it, for completion in an editor). A key that is left out has the",
        "default given here, or what the method in `recipes/methods/` says.", "",
        *_keys(schema["properties"]),
    ]  # fmt: skip
    sections = {name: _definition(value) for name, value in schema["properties"].items()}
    titles = {definition: name for name, definition in sections.items() if definition is not None}
    for name, section in {**{d: definitions[d] for d in titles}, **{d: v for d, v in definitions.items() if d not in titles}}.items():
        lines += ["", f"## {titles.get(name, name)} {{ #{name.lower()} }}", "", section.get("description", ""), ""]
        lines += _keys(section.get("properties", {}))
    training = schema["properties"]["training"]
    lines += ["", "## training { #training }", "", training["description"], "", *_keys(training["properties"])]
    return "\n".join(lines) + "\n"


def _keys(properties: dict[str, Any]) -> Iterator[str]:
    yield from ("| key | values | default | |", "| --- | --- | --- | --- |")
    for name, value in properties.items():
        shown = "default" in value and "$ref" not in value  # a section has a table of its own
        default = _code(json.dumps(value["default"], ensure_ascii=False)) if shown else ""
        yield f"| `{name}` | {_values(name, value)} | {default} | {_cell(value.get('description', ''))} |"


def _values(name: str, value: dict[str, Any], inner: dict[str, Any] | None = None) -> str:
    """What a key may be, in words; `inner` are definitions that stand beside the key and have no table of their own."""
    inner = value.get("$defs", inner or {})
    if "$ref" in value:
        definition = value["$ref"].rpartition("/")[2]
        return _values("", inner[definition], inner) if definition in inner else f"[{definition}](#{definition.lower()})"
    if name == "training":
        return "[section](#training)"
    if "anyOf" in value or "oneOf" in value:
        return " or ".join(dict.fromkeys(_values("", one, inner) for one in value.get("anyOf") or value["oneOf"]))
    if "enum" in value:
        return ", ".join(f"`{one}`" for one in value["enum"])
    if "const" in value:
        return f"`{value['const']}`"
    if value.get("type") == "array" and isinstance(value.get("items"), dict) and value["items"]:
        return f"list of {_values('', value['items'], inner)}"
    names = {"object": "section", "array": "list", "boolean": "true, false", "string": "text"}
    return names.get(value.get("type", ""), value.get("type", "any"))


def _definition(value: dict[str, Any]) -> str | None:
    """The definition that a property of the schema refers to."""
    for one in (value, *value.get("anyOf", ())):
        if "$ref" in one:
            return str(one["$ref"].rpartition("/")[2])
    return None


def commands() -> str:
    """Every command with its arguments, from the parser of command lines."""
    below = next(action for action in parser_of_commands()._actions if isinstance(action, argparse._SubParsersAction))
    lines = ["# Commands", "", "Each also takes `--traceback`: show where in the code an error came from.", ""]
    lines += [f"- [`align {action.dest}`](#{action.dest}): {_text(action.help)}" for action in below._choices_actions]
    for name, command in below.choices.items():
        command.formatter_class = lambda prog: argparse.HelpFormatter(prog, width=110)
        lines += [
            "",
            f"## align {name} {{ #{name} }}",
            "",
            _text(command.description or ""),
            "",
            "```text",
            command.format_usage().strip(),
            "```",
        ]
        arguments = [action for action in command._actions if not isinstance(action, argparse._HelpAction)]
        if arguments:
            lines += ["", "| argument | |", "| --- | --- |"]
            lines += [f"| {_argument(action)} | {_cell(_text(action.help))} |" for action in arguments]
    return "\n".join(lines) + "\n"


def _argument(action: argparse.Action) -> str:
    value = action.metavar or ("|".join(map(str, action.choices)) if action.choices else action.dest.upper())
    value = value if isinstance(value, str) else " ".join(value)
    if not action.option_strings:
        return _code(action.metavar if isinstance(action.metavar, str) else action.dest)
    return _code(f"{', '.join(action.option_strings)}{'' if action.nargs == 0 else ' ' + value}")


def losses() -> str:
    """Every loss, from the registry: what it computes, what it reads, its hyperparameters and its paper."""
    lines = ["# Losses", "", "Made from the registry in `align.losses`. [How they are used](../guides/losses.md).", ""]
    lines += ["| `loss_type` | other names | β | reference | its own hyperparameters |", "| --- | --- | --- | --- | --- |"]
    for name, loss in sorted(LOSSES.items()):
        others = ", ".join(f"`{alias}`" for alias, ours in sorted(ALIASES.items()) if ours == name)
        own = ", ".join(f"`{one}`" for one in loss.hyperparameters if one != "beta")
        beta = "" if loss.default_beta is None else f"{loss.default_beta:g}"
        lines.append(f"| [`{name}`](#{name}) | {others} | {beta} | {'yes' if loss.needs_reference else 'no'} | {own} |")
    lines += [f"| `{name}` | | | | {' and '.join(f'`{part}`' for part in names)} together |" for name, names in sorted(COMPOSITES.items())]
    for name, loss in sorted(LOSSES.items()):
        reads = ", ".join(f"`{tensor}`" for tensor in loss.tensors)
        one = {"edge": "edge", "chosen_token": "token of a chosen response", "free_node": "leaf without an edge"}[loss.per]
        lines += ["", f"## {name} {{ #{name} }}", "", " ".join((loss.fn.__doc__ or "").split("\n\n")[0].split()), ""]
        lines += [f"- Source: {loss.source}", f"- Reads {reads}; one value per {one}."]
        if loss.batchwise:
            lines.append("- Compares the edges of a micro-batch with each other, by its own definition: packing changes it.")
        lines.append(f"- In Python: [`{loss.fn.__module__}.{loss.fn.__name__}`][{loss.fn.__module__}.{loss.fn.__name__}]")
    return "\n".join(lines) + "\n"


def parts() -> str:
    """What `align list` lists, but for losses, which have a page."""
    lines = [
        "# What recipes name",
        "",
        "What `align list KIND` prints. [Parts of your own](../guides/own-parts.md) are named in the same keys.",
    ]
    for kind, (where, rows) in KINDS.items():
        if kind != "losses":
            lines += ["", f"## {kind}", "", f"Named in {where}.", "", "| name | |", "| --- | --- |"]
            lines += [f"| {_code(name)} | {_cell(sentence)} |" for name, sentence in rows()]
    return "\n".join(lines) + "\n"


def messages() -> str:
    """The mistakes that are made in a test, and what the message says."""
    mistakes = runpy.run_path(str(ROOT / "tests/mistakes/mistakes.py"))["ALL"]
    lines = [
        "# Messages that are tested", "",
        "Each of these mistakes is made in a test (`tests/mistakes`), which looks for the words beside it in the one sentence that is",
        "printed. What to do about the usual ones: [troubleshooting](../troubleshooting.md).",
    ]  # fmt: skip
    group = ""
    for name, mistake in mistakes.items():
        before, _, mistaken = name.partition(": ")
        if before != group:
            group = before
            lines += ["", f"## {group}", "", "| the mistake | the message says |", "| --- | --- |"]
        words = " … ".join(map(_code, mistake.words))
        lines.append(f"| {_cell(mistaken)} | {words} |")
    return "\n".join(lines) + "\n"


def modules_by_package() -> dict[str, list[str]]:
    """The public modules of each package, the package itself first."""
    found: dict[str, list[str]] = {}
    for root in PACKAGES:
        for file in sorted((ROOT / root).rglob("*.py")):
            path = file.relative_to(ROOT).with_suffix("").parts
            package, module = ".".join(path[:-1]), ".".join(path).removesuffix(".__init__")
            if (path[-1].startswith(("_", "test_")) and path[-1] != "__init__") or package.startswith(NOT_PYTHON):
                continue
            found.setdefault(package, []).append(module)
    return {package: sorted(modules, key=lambda module: module != package) for package, modules in found.items()}


def python_page(package: str, modules: list[str]) -> str:
    """The page of a package: the names that it exports, and every module."""
    lines = [f"# {package}", ""]
    for module in modules:
        lines += [f"::: {module}", ""]
        if module == package:
            exported, defined = names_in(package)
            lines[-1:] = ["    options:", f"      members: {json.dumps(defined) if defined else 'false'}", ""]
            if exported:
                lines += [f"From `{package}` are imported: {', '.join(f'[`{name}`][{package}.{name}]' for name in exported)}.", ""]
    return "\n".join(lines)


def names_in(package: str) -> tuple[list[str], list[str]]:
    """The names that a package exports (`__all__`), and the public ones that its `__init__.py` defines itself."""
    exported, defined = [], []
    for node in ast.parse((ROOT.joinpath(*package.split(".")) / "__init__.py").read_text(encoding="utf-8")).body:
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            defined.append(node.name)
        elif isinstance(node, (ast.Assign, ast.AnnAssign)):
            target = ast.unparse(node.targets[0] if isinstance(node, ast.Assign) else node.target)
            if target == "__all__" and node.value is not None:
                exported = list(ast.literal_eval(node.value))
            defined.append(target)
    return exported, [name for name in defined if not name.startswith("_")]


def _python_page(package: str) -> str:
    return f"reference/python/{package}.md"


def _text(help: str | None) -> str:
    return " ".join((help or "").split()).replace("%%", "%")


def _cell(text: str) -> str:
    """Text that can stand in a cell of a table: in spans of code a `|` divides nothing."""
    pieces = re.split(r"(`+.*?`+)", " ".join(text.split()))
    return "".join(piece if piece.startswith("`") else piece.replace("|", "\\|") for piece in pieces)


def _code(text: str) -> str:
    """Text as a span of code."""
    return f"`` {text} ``" if "`" in text else f"`{text}`"
