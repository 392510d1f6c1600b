"""Instruction following by comparison: outputs, a judge, win rates, and guards against what cheats them."""

from eval.win_rates.annotations import Annotation, read_annotations
from eval.win_rates.gaming import Flag, suspicious
from eval.win_rates.length_control import Controlled, Gamed, length_controlled, read_gamed
from eval.win_rates.rates import WinRate, win_rate

__all__ = [
    "Annotation", "Controlled", "Flag", "Gamed", "WinRate", "length_controlled", "read_annotations", "read_gamed", "suspicious", "win_rate",
]  # fmt: skip
