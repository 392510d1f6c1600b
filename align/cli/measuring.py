"""`align study`: measuring what training does."""

from __future__ import annotations

import argparse
from typing import Any

from align.cli.terminal import show


def add(commands: Any) -> None:
    """Add these commands to a parser's."""
    about = "Train small policies under DPO and its regularizers, and say how strongly the 3D-properties appear (arXiv 2406.07327)."
    study = commands.add_parser("study", help="the toy study of the 3D-properties", description=about)
    study.add_argument("which", choices=["3d"])
    study.add_argument("--seed", type=int, default=0, help="of the policies' starts (default 0)")
    study.add_argument("--steps", type=int, help="of training (default 150)")
    study.add_argument("--beta-rejected", type=float, help="of Flex-DPO, whose other β is 0.1 (default 0.05)")
    study.add_argument("--sft-weight", type=float, help="of SFT-DPO (default 0.1)")
    study.set_defaults(command=_study)


def _study(options: argparse.Namespace) -> None:
    import torch

    from align.diagnostics.study import Study, run
    from align.tables import study_table

    torch.set_num_threads(1)  # the matrices are tiny: more threads only wait for each other
    given = {name: getattr(options, name) for name in ("seed", "steps", "beta_rejected", "sft_weight")}
    curves = run(Study(**{name: value for name, value in given.items() if value is not None}))
    show(study_table(curves))
