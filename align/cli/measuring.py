"""`align study | diagnose | win-rate | report`: measuring what training does, and to what data."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from align.cli.terminal import show
from align.errors import AlignError


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
    about = """Look at preferences through a model: log-probs and drift of chosen, rejected and unseen responses, how on-policy the data is,
and which pairs displace the chosen response's likelihood (CHES, arXiv 2410.08847)."""
    diagnose = commands.add_parser("diagnose", help="look at preferences through a model, or at what a run did", description=about)
    diagnose.add_argument("model", help="a model's folder or name on the hub, or the folder of a run: its last training is looked at")
    diagnose.add_argument("data", nargs="?", help="a .jsonl or .parquet file, or a data set on the hub (a run's own by default)")
    diagnose.add_argument("--split", default="train")
    diagnose.add_argument("--reference", help="the model that training began with, for the drift (a run's own by default)")
    diagnose.add_argument("--limit", type=int, help="the first so many trees")
    diagnose.add_argument("--unseen", type=int, default=32, help="prompts to which a response is sampled (default 32)")
    diagnose.add_argument("--max-length", type=int, default=4096, help="tokens of prompt and response; longer ones are cut (default 4096)")
    diagnose.add_argument("--dtype", default="auto", help="of the weights (default auto: as they were saved)")
    diagnose.add_argument("--top", type=int, default=5, help="displacing pairs to list (default 5)")
    diagnose.add_argument("--filter", type=float, metavar="SHARE", help="drop this share of the pairs, those that displace most")
    diagnose.add_argument("--by", default="ches_normalized", help="ches_normalized (default) or ches: what --filter goes by")
    diagnose.add_argument("--output", type=Path, help="where --filter writes the data set that is left: .jsonl or .parquet")
    diagnose.add_argument("--edges", type=Path, help="write every pair's numbers to this .jsonl, too")
    diagnose.set_defaults(command=_diagnose)
    about = "Win rates of annotations in AlpacaEval's format, at equal lengths too, and what speaks against trusting them."
    rate = commands.add_parser("win-rate", help="win rates from a judge's annotations", description=about)
    rate.add_argument("annotations", type=Path, help="a .json or .jsonl file, packed by gzip or not")
    rate.add_argument("--length-control", metavar="FILE", help="AlpacaEval's df_gamed.csv or its folder (default: from the hub)")
    rate.set_defaults(command=_win_rate)
    about = "Write one HTML file that shows what runs did: results, training, trees, programs, costs. It needs no network."
    report = commands.add_parser("report", help="write the HTML report of one or several runs", description=about)
    report.add_argument("runs", nargs="+", type=Path, help="folders of runs, or one with several runs below it")
    report.add_argument("--output", type=Path, help="the file (default: report.html in the first folder)")
    report.set_defaults(command=_report)


def _study(options: argparse.Namespace) -> None:
    import torch

    from align.diagnostics.study import Study, run
    from align.tables import study_table

    torch.set_num_threads(1)  # the matrices are tiny: more threads only wait for each other
    given = {name: getattr(options, name) for name in ("seed", "steps", "beta_rejected", "sft_weight")}
    curves = run(Study(**{name: value for name, value in given.items() if value is not None}))
    show(study_table(curves))


def _diagnose(options: argparse.Namespace) -> None:
    if (options.filter is None) != (options.output is None):
        raise AlignError("--filter SHARE and --output FILE go together: how much to drop, and where to write what is left")
    from align.tables import diagnosis_tables
    from eval.diagnosis import Question, check_filter, diagnose, write_edges, write_filtered

    if options.filter is not None:
        check_filter(options.filter, options.by)
    model, reference, data = options.model, options.reference, options.data
    if (Path(model) / "recipe.yaml").exists():
        from align.plans import last_training, load_run

        last = last_training(load_run(Path(model)))
        model, reference, data = last["model"], reference or last["reference"], data or last["data"]
    if data is None:
        raise AlignError(f"{model} is no run's folder: name the data to look at, too")
    question = Question(
        model, data, options.split, reference, options.unseen, options.limit, options.max_length, dtype=options.dtype
    )  # fmt: skip
    found, trees = diagnose(question, options.top)
    for table in diagnosis_tables(found):
        show(table)
    print(f"{data}: {len(found.edges)} pairs; {found.left_out} trees left out. On-policy data has log-probs like the model's own samples.")
    if options.edges is not None:
        write_edges(found.edges, options.edges)
    if options.output is not None:
        left, total = write_filtered(trees, found.edges, options.filter, options.by, options.output)
        print(f"{options.output}: {left} of {total} pairs, without the {total - left} that displace most ({options.by}).")


def _win_rate(options: argparse.Namespace) -> None:
    from align.tables import win_rate_table
    from eval.win_rates import length_controlled, read_annotations, read_gamed, suspicious, win_rate

    annotations = read_annotations(options.annotations, keep_aside=options.annotations.with_suffix(".rejected.jsonl"))
    try:
        gamed = read_gamed(options.length_control)
    except AlignError as error:
        if options.length_control is not None:
            raise
        gamed = None
        print(f"align: {error} with --length-control for the leaderboard's model; in its place stands one of two terms", file=sys.stderr)
    flags = suspicious([one.output_2 for one in annotations])
    show(win_rate_table(annotations[0], win_rate(annotations), length_controlled(annotations, gamed)))
    for flag in flags:
        show(f"[bold red]{flag.sentence}[/]")


def _report(options: argparse.Namespace) -> None:
    from align.plans import run_folders
    from eval.report import write_report

    folders = [folder for given in options.runs for folder in run_folders(given)]
    path = options.output or options.runs[0] / "report.html"
    missing = write_report(folders, path)
    print(f"{path}: {len(folders)} {'run' if len(folders) == 1 else 'runs'}")
    for one in missing:
        print(f"not in it: {one}")
