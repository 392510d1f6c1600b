"""What stands on the pages of the documentation works: Python runs, recipes are planned, commands are parsed, files and links are there."""

import json
import re
import runpy
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import byte_level_tokenizer, random_model

from align import __version__, plans, recipes
from align.cli import parse
from data_pipelines.thought_trees.tasks import load_task

ROOT = Path(__file__).parent.parent
PAGES = [*sorted(ROOT.glob("*.md")), *sorted(ROOT.glob("docs/**/*.md")), ROOT / "scripts/slurm/README.md"]
OWN = re.compile(r"# (\w+\.py)\n")
"""The first line of a Python block that other examples import."""
COMING_ALONG = {name for name, _ in recipes.available()}
NAMES = {
    r"DPO": ("direct preference optimization", "2305.18290"),
    r"Flex-DPO|3D-properties": ("", "2406.07327"),
    r"DICE": ("bootstrapping", "2406.09760"),
    r"CPO": ("chain of preference optimization", "2406.09136"),
    r"IRPO": ("iterative reasoning preference optimization", "2404.19733"),
    r"SELM": ("self-exploring language models", "2405.19332"),
    r"Step-DPO": ("step-wise preference optimization", "2406.18629"),
    r"[Oo]nline DPO": ("online ai feedback", "2402.04792"),
    r"Self-rewarding|self-rewarding": ("self-rewarding language models", "2401.10020"),
}
"""A method's short name → its full name and its paper, which stand where a page first uses it."""
JOBS = {"train.sbatch": "launch", "run.sbatch": "run", "rollouts.sbatch": "run"}
"""A job script → the command that it hands its words to."""


def blocks(page, language):
    """The fenced blocks of a page in one language."""
    return re.findall(rf"^```{language}[^\n]*\n(.*?)^```", page.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)


def examples(language):
    """One parameter for each block of all pages."""
    return [
        pytest.param(block, id=f"{page.relative_to(ROOT)}-{number}")
        for page in PAGES
        for number, block in enumerate(blocks(page, language))
    ]


def command_lines(page):
    """The lines of shell of a page: of its bash blocks, of indented lines, and the commands that stand in running text."""
    text = page.read_text(encoding="utf-8")
    found = [line for block in blocks(page, "bash") for line in block.replace("\\\n", " ").splitlines()]
    found += re.findall(r"^    ((?:align|sbatch|accelerate|bash|python) .*)$", text, re.MULTILINE)
    found += re.findall(r"`((?:align [a-z]|sbatch |bash scripts|python scripts|mkdocs )[^`\n]*)`", text)
    return [line for line in found if line.strip() and not line.lstrip().startswith("#")]


def words_of(line):
    """The words of `align` in a line of shell; None where it runs something else."""
    words = shlex.split(line, comments=True)
    if words[:1] == ["align"]:
        return words[1:]
    if "align.train" in words:
        return ["train", *words[words.index("align.train") + 1 :]]
    if words[:1] == ["sbatch"] and (job := next((n for n, word in enumerate(words) if Path(word).name in JOBS), None)) is not None:
        return [JOBS[Path(words[job]).name], *words[job + 1 :]]
    return None


def check_line(line):
    """A command of align is parsed, and the recipe that it names planned with its overrides; files of the repository that it names are there."""
    for word in shlex.split(line, comments=True):
        if word.startswith(("scripts/", "recipes/", "tests/")):
            assert (ROOT / word).exists(), word
    words = words_of(line)
    if words is None:
        return
    if len(words) == 1:  # only its name
        words.append("--help")
    try:
        options = parse(words)
    except SystemExit as ended:
        if ended.code:
            pytest.fail(f"align cannot read: {line}")
        return
    if getattr(options, "recipe", None) in COMING_ALONG:
        plans.runs_of(recipes.load(options.recipe, options.overrides))


@pytest.fixture
def own_parts(tmp_path, monkeypatch):
    """The modules that the pages show as files, importable."""
    for page in PAGES:
        for block in blocks(page, "python"):
            if name := OWN.match(block):
                (tmp_path / name[1]).write_text(block, encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_commands_are_parsed_and_their_recipes_planned(page, own_parts):
    for line in command_lines(page):
        check_line(line)


def test_commands_stand_on_the_pages():
    assert sum(words_of(line) is not None for page in PAGES for line in command_lines(page)) > 60


@pytest.mark.slow
@pytest.mark.parametrize("code", examples("python"))
def test_python_runs(code, tmp_path):
    """With a random model in the place of the one that it names, and on the CPU."""
    for seed, name in enumerate(("Qwen/Qwen2.5-0.5B-Instruct", "Qwen/Qwen2.5-0.5B")):
        random_model(seed=seed).save_pretrained(tmp_path / str(seed))
        byte_level_tokenizer().save_pretrained(tmp_path / str(seed))
        code = code.replace(name, str(tmp_path / str(seed)))
    code = code.replace('PreferenceConfig("runs/example"', 'PreferenceConfig("runs/example", use_cpu=True, bf16=False, report_to="none"')
    small = """recipe={"rounds.filter": {"drop_truncated": False, "min_characters": 1, "min_responses": 2}}"""  # a random model rarely ends
    code = code.replace('DICEConfig("runs/dice"', f'DICEConfig("runs/dice", use_cpu=True, bf16=False, report_to="none", {small}')
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]


@pytest.mark.parametrize("text", examples("yaml"))
def test_yaml_is_a_recipe_or_a_task(text, tmp_path):
    file = tmp_path / "mine.yaml"
    file.write_text(text, encoding="utf-8")
    if "model:" in text:
        plans.runs_of(recipes.load(file))
    else:
        load_task(str(file))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_to_files(page):
    """But for those to pages that are made when the site is built, which `mkdocs build --strict` checks."""
    prose = re.sub(r"```.*?```|`[^`\n]*`", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    for target in re.findall(r"\]\(([^)#\s]+)[^)]*\)", prose):
        if "://" not in target and "reference/" not in target:
            assert (page.parent / target).exists(), target


def test_keys_that_are_named_are_keys():
    """`section.key` in running text is a key of recipes."""
    schema = json.loads((ROOT / "recipes/recipe.schema.json").read_text(encoding="utf-8"))
    sections = {"training": schema["properties"]["training"]["properties"]}
    for name in ("model", "data", "rollouts", "rounds", "thoughts", "code", "resources"):
        sections[name] = schema["$defs"][name.title()]["properties"]
    for page in PAGES:
        for section, key in re.findall(rf"`({'|'.join(sections)})\.([a-z_0-9]+)[^`]*`", page.read_text(encoding="utf-8")):
            assert key in sections[section], f"{page.name}: {section}.{key}"


def test_messages_of_the_troubleshooting_page_are_ours():
    """What it quotes stands in a sentence of the code, or in one that the mistakes in tests/mistakes are looked for."""
    mistakes = runpy.run_path(str(ROOT / "tests/mistakes/mistakes.py"))["ALL"]
    said = " ".join(" ".join(mistake.words) for mistake in mistakes.values())
    for package in ("align", "data_pipelines", "eval"):
        said += "".join(file.read_text(encoding="utf-8") for file in (ROOT / package).rglob("*.py"))
    said = re.sub(r'"\s+f?"', "", said)  # a text in several lines
    rows = re.findall(r"^\| (`.*?) \| ", (ROOT / "docs/troubleshooting.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert len(rows) > 40
    for message in rows:
        for part in re.split(r" … |` `", message.strip("`")):
            assert part in said, part


@pytest.mark.parametrize("page", [page for page in PAGES if page.name != "CHANGELOG.md"], ids=lambda page: str(page.relative_to(ROOT)))
def test_methods_have_their_full_name_and_paper_at_first_use(page):
    """In running text; a table row or a sentence after it, where several methods are named together."""
    prose = re.sub(r"^```.*?^```|`[^`\n]*`|^    .*?$|^#.*?$", "", page.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)
    for short, (full, paper) in NAMES.items():
        if (found := re.search(rf"(?<![-\w/])(?<!nline )(?:{short})\b", prose)) is not None:
            beside = " ".join(prose[max(0, found.start() - 100) : found.end() + 300].lower().split())
            assert full in beside, f"{found[0]}: expected '{full}' beside it"
            assert paper in beside, f"{found[0]}: expected {paper} beside it"


def test_version_stands_in_changes_and_citation():
    assert re.findall(r"^## (.*)$", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), re.MULTILINE)[0] == __version__
    assert f"version: {__version__}\n" in (ROOT / "CITATION.cff").read_text(encoding="utf-8")
    assert f"Version {__version__.rpartition('.')[0]}:" in (ROOT / "README.md").read_text(encoding="utf-8")
