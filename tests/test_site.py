"""The documentation is built without a warning, holds every public name, and needs no network."""

import ast
import os
import re
import runpy
import subprocess
import sys
import zlib
from pathlib import Path

import pytest

pytest.importorskip("mkdocs")
ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(folder)]
    environment = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "WARNING" not in done.stdout + done.stderr
    return folder


def inventory(site):
    """The names that have an anchor on some page."""
    data = (site / "objects.inv").read_bytes()
    lines = zlib.decompress(data[[found.end() for found in re.finditer(rb"\n", data)][3] :]).decode().splitlines()
    return {line.split(" ")[0] for line in lines}


def public_names():
    """Every function and class that a public module defines, and every name that a package exports."""
    generate = runpy.run_path(str(ROOT / "docs/generate.py"))
    for package, modules in generate["modules_by_package"]().items():
        yield from (f"{package}.{name}" for name in generate["names_in"](package)[0])
        for module in modules:
            path = ROOT.joinpath(*module.split("."))
            file = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
            for node in ast.parse(file.read_text(encoding="utf-8")).body:
                if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)) and not node.name.startswith("_"):
                    yield f"{module}.{node.name}"


@pytest.mark.slow
def test_every_public_name_has_a_page(site):
    names = set(public_names())
    assert len(names) > 1000
    assert not names - inventory(site)


@pytest.mark.slow
def test_generated_pages_hold_what_they_are_made_from(site):
    text = {
        page: (site / "reference" / page / "index.html").read_text(encoding="utf-8") for page in ("recipe", "commands", "losses", "parts")
    }
    assert "beta_rejected_schedule" in text["recipe"]
    assert "--rehearse" in text["commands"]
    assert "dpo_positive" in text["losses"]
    assert "right_over_wrong" in text["parts"]
    assert "scripts/quickstart.sh" in (site / "index.html").read_text(encoding="utf-8")


@pytest.mark.slow
def test_pages_load_nothing_from_elsewhere(site):
    """Links may lead elsewhere; scripts, styles, images and fonts are the site's own."""
    for page in site.rglob("*.html"):
        text = page.read_text(encoding="utf-8")
        loaded = re.findall(r"<(?:script|img|iframe)[^>]*\ssrc=\"?([^\"\s>]+)", text)
        loaded += re.findall(r"<link[^>]*rel=\"?(?:stylesheet|preconnect|icon|preload)\"?[^>]*href=\"?([^\"\s>]+)", text)
        loaded += re.findall(r"<link[^>]*href=\"?([^\"\s>]+)\"?[^>]*rel=\"?(?:stylesheet|preconnect|icon|preload)", text)
        assert not [one for one in loaded if one.startswith(("http:", "https:", "//"))], page
