"""The README's examples work: its Python runs, its commands exist."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import byte_level_tokenizer, random_model

from align.cli import parse

README = (Path(__file__).parent.parent / "README.md").read_text()


def blocks(language):
    return re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)


@pytest.mark.slow
@pytest.mark.parametrize("number", range(len(blocks("python"))))
def test_python_example_runs(number, tmp_path):
    """With a random model in the place of the one that it names, and on the CPU."""
    code = blocks("python")[number]
    for seed, name in enumerate(("Qwen/Qwen2.5-0.5B-Instruct", "Qwen/Qwen2.5-0.5B")):
        random_model(seed=seed).save_pretrained(tmp_path / str(seed))
        byte_level_tokenizer().save_pretrained(tmp_path / str(seed))
        code = code.replace(name, str(tmp_path / str(seed)))
    code = code.replace('PreferenceConfig("runs/example"', 'PreferenceConfig("runs/example", use_cpu=True, bf16=False, report_to="none"')
    small = """recipe={"rounds.filter": {"drop_truncated": False, "min_characters": 1, "min_responses": 2}}"""  # a random model rarely ends
    code = code.replace('DICEConfig("runs/dice"', f'DICEConfig("runs/dice", use_cpu=True, bf16=False, report_to="none", {small}')
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]


def test_commands_exist():
    lines = [line for block in blocks("bash") for line in block.splitlines()]
    commands = [line.split("#")[0].split() for line in lines if line.startswith("align ")]
    assert len(commands) >= 5
    for command in commands:
        parse([part.strip("'") for part in command[1:]])
    for script in {part for line in lines for part in line.split() if part.startswith("scripts/")}:
        assert (Path(__file__).parent.parent / script).exists(), script
