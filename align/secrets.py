"""Secrets have no place in a recipe, which is written into run folders, reports, model cards and job scripts, and logged by trackers."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from align.errors import AlignError

VARIABLES = {"hub_token": "HF_TOKEN", "token": "HF_TOKEN", "wandb": "WANDB_API_KEY", "rollouts": "VLLM_API_KEY"}
"""Environment variables that are read in the place of a key's last name or of its section."""
_NAMES = (
    r"(?:\w+_)?(?:(?:hub|hf|auth|access|api|bearer|private|secret|wandb)_?(?:access_?)?(?:token|key)s?|password|passwd|secret|credentials?)"
)
_KEY = re.compile(rf"{_NAMES}|token")
_VALUE = re.compile(
    r"\bhf_[A-Za-z0-9]{20,}|\bsk-[\w-]{20,}|\bgh[opsur]_[A-Za-z0-9]{30,}|\bgithub_pat_\w{30,}|\bglpat-[\w-]{20,}|\bwandb_v1_\w{20,}"
    r"|\b(?:AKIA|ASIA)[A-Z0-9]{16}\b|\bxox[abps]-[\w-]{10,}|\bAIza[\w-]{35}|\beyJ[\w-]{10,}\.[\w-]{10,}\.[\w-]{10,}"
    r"|(?i:\bbearer\s+[\w.~+/-]{16,})|-----BEGIN [A-Z ]*PRIVATE KEY-----(?:[\s\S]*?-----END [A-Z ]*PRIVATE KEY-----)?"
)
_ASSIGNED = re.compile(rf"(?i:(\b{_NAMES}\b[\"']?\s*[=:]\s*[\"']?))(?!None\b|null\b|\*\*\*)[^\s\"',}}]{{4,}}")  # WANDB_API_KEY=…
_LOGIN = re.compile(r"(?<=://)[^/\s:@]*:[^/\s@]+(?=@)")  # https://name:password@host
MASK = "***"


def check_no_secret(recipe: Mapping[str, Any], where: str) -> None:
    """See that a recipe, as read from YAML, holds no token, password or key.

    Raises:
        AlignError: it does; names the key and the environment variable to set instead, and does not repeat the secret.
    """
    for key, value in _texts(recipe):
        names = key.split(".")
        if _KEY.fullmatch(names[-1].lower()) or masked(value) != value:
            variable = VARIABLES.get(names[-1]) or VARIABLES.get(names[0])
            instead = f"set the environment variable {variable} instead" if variable else "give it in an environment variable instead"
            raise AlignError(f"{where}: {key} holds a secret, which would stand in run folders, reports and logs: {instead}")


def masked(text: str) -> str:
    """A text with `***` in the place of whatever looks like a token, a key, or a password in an address.

    >>> masked("https://me:geheim@example.org and sk-abcdefghijklmnopqrstuvwx")
    'https://***@example.org and ***'
    >>> masked("WANDB_API_KEY=0123456789abcdef hub_token: None")
    'WANDB_API_KEY=*** hub_token: None'
    """
    return _ASSIGNED.sub(rf"\1{MASK}", _LOGIN.sub(MASK, _VALUE.sub(MASK, text)))


def _texts(value: Any, key: str = "") -> Iterator[tuple[str, str]]:
    """Every text of a nested value with its dotted key."""
    if isinstance(value, Mapping):
        for name, inner in value.items():
            yield from _texts(inner, f"{key}.{name}" if key else str(name))
    elif isinstance(value, list):
        for number, inner in enumerate(value):
            yield from _texts(inner, f"{key}[{number}]")
    elif isinstance(value, str) and value:
        yield key, value
