"""`align study | eval | diagnose | judge | win-rate | report`: measuring what training does, and to what data."""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from align.cli.terminal import lines_of, show
from align.errors import AlignError

if TYPE_CHECKING:
    from eval.win_rates import Controlled


def add(commands: Any) -> None:
    """Add these commands to a parser's."""
    about = """Train small policies under DPO and its regularizers, and say how strongly the 3D-properties appear (arXiv 2406.07327).
Example: align study 3d"""
    study = commands.add_parser("study", help="the toy study of the 3D-properties", description=about)
    study.add_argument("which", choices=["3d"])
    study.add_argument("--seed", type=int, default=0, help="of the policies' starts (default 0)")
    study.add_argument("--steps", type=int, help="of training (default 150)")
    study.add_argument("--beta-rejected", type=float, help="of Flex-DPO, whose other β is 0.1 (default 0.05)")
    study.add_argument("--sft-weight", type=float, help="of SFT-DPO (default 0.1)")
    study.add_argument("--output", type=Path, help="write the curves: .html, a page that needs no network, or .jsonl, their numbers")
    study.set_defaults(command=_study)
    about = """Measure a model on suites of questions, mathematics, programs, instructions, with intervals; lm:TASK is one of
lm-evaluation-harness, by its name or as a YAML file. Interrupted anywhere, the same command goes on; results of another model in
--against are compared question by question.
Example: align eval runs/mine/train/model --suite gsm8k --limit 200"""
    measure = commands.add_parser("eval", help="measure a model on standard suites", description=about)
    measure.add_argument("model", help="a model's folder or name on the hub")
    measure.add_argument(
        "--suite",
        action="append",
        required=True,
        help="such as gsm8k, math, humaneval, instructions, or lm:TASK of lm-evaluation-harness; several times",
    )
    measure.add_argument("--data", action="append", default=[], metavar="SUITE=FILE", help="a file in the place of the hub's data set")
    measure.add_argument("--limit", type=int, help="the first so many questions of each suite")
    measure.add_argument("--engine", choices=["transformers", "vllm", "server"], default="transformers", help="(default transformers)")
    measure.add_argument("--url", help="of a running server")
    measure.add_argument("--tensor-parallel", type=int, default=1, help="GPUs a copy of the model is spread over")
    measure.add_argument("--dtype", default="auto", help="of the weights (default auto: as they were saved)")
    measure.add_argument("--no-chat", action="store_true", help="prompts as plain text, though the model has a chat template")
    measure.add_argument("--shots", type=int, help="examples in front of each question, in suites of lm: (default: as the task says)")
    measure.add_argument("--samples", type=int, default=1, help="programs a problem for pass@k, beside the greedy one")
    measure.add_argument("--max-new-tokens", type=int, help="of a response (default 1024; for questions in plain text as the task says)")
    measure.add_argument("--system", metavar="TEXT", help='a system message; "" is an empty one (default: none of ours)')
    measure.add_argument(
        "--stop-token", action="append", default=[], metavar="TOKEN", help="ends a response, too: an id or a text; several times"
    )
    measure.add_argument("--output", type=Path, help="the folder (default runs/eval/MODEL)")
    measure.add_argument("--against", type=Path, help="the folder of another model's evaluation")
    measure.set_defaults(command=_eval)
    about = """Look at preferences through a model: log-probs and drift of chosen, rejected and unseen responses, how on-policy the data is,
and which pairs displace the chosen response's likelihood (CHES, arXiv 2410.08847). Example: align diagnose runs/mine"""
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
    diagnose.add_argument("--filter", type=float, metavar="SHARE", help="drop this share of the pairs, the most displacing (paper: 0.95)")
    diagnose.add_argument("--by", default="ches_normalized", help="ches_normalized (default) or ches: what --filter goes by")
    diagnose.add_argument("--output", type=Path, help="where --filter writes the data set that is left: .jsonl or .parquet")
    diagnose.add_argument("--edges", type=Path, help="write every pair's numbers to this .jsonl, too")
    diagnose.set_defaults(command=_diagnose)
    about = """Have a judge compare outputs with a baseline's, both in AlpacaEval's format (instruction, output, generator).
Every verdict is kept as it comes: after any end the same command goes on. Then the win rates, as `align win-rate` gives them.
Example: align judge mine.json --baseline gpt4.json --judge judge-model --url http://localhost:8000/v1 --output verdicts"""
    judge = commands.add_parser("judge", help="have outputs judged against a baseline's", description=about)
    judge.add_argument("outputs", type=Path, help="of the model: a .json or .jsonl file")
    judge.add_argument("--baseline", type=Path, required=True, help="outputs to the same instructions")
    judge.add_argument("--judge", required=True, help="the judge's name at --url; without --url, a model's folder or name on the hub")
    judge.add_argument("--url", help="an OpenAI-compatible endpoint; its key stands in $ALIGN_JUDGE_KEY")
    judge.add_argument("--output", type=Path, required=True, help="a folder: gets the verdicts and annotations.json")
    judge.add_argument("--template", type=Path, help="a question of your own, with {instruction}, {first} and {second}")
    judge.add_argument("--one-order", action="store_true", help="ask once a pair, in an order that is drawn, not in both")
    judge.add_argument("--connections", type=int, default=16, help="questions at a time (default 16)")
    judge.add_argument("--length-control", metavar="FILE", help="as for `align win-rate`")
    judge.set_defaults(command=_judge)
    about = """Win rates of annotations in AlpacaEval's format, at equal lengths too, and what speaks against trusting them.
Example: align win-rate verdicts/annotations.json"""
    rate = commands.add_parser("win-rate", help="win rates from a judge's annotations", description=about)
    rate.add_argument("annotations", type=Path, help="a .json or .jsonl file, packed by gzip or not")
    rate.add_argument("--length-control", metavar="FILE", help="AlpacaEval's df_gamed.csv or its folder (default: from the hub)")
    rate.set_defaults(command=_win_rate)
    about = """Write one HTML file that shows what runs did: results, training, trees, programs, costs. It needs no network.
Example: align report runs/mine"""
    report = commands.add_parser("report", help="write the HTML report of one or several runs", description=about)
    report.add_argument("runs", nargs="+", type=Path, help="folders of runs, or one with several runs below it")
    report.add_argument("--output", type=Path, help="the file (default: report.html in the first folder)")
    report.set_defaults(command=_report)


def _study(options: argparse.Namespace) -> None:
    if options.output is not None and options.output.suffix not in (".html", ".jsonl"):
        raise AlignError(f"--output {options.output}: expected a name that ends in .html or .jsonl")
    import torch

    from align.diagnostics.study import Study, run
    from align.tables import study_table

    torch.set_num_threads(1)  # the matrices are tiny: more threads only wait for each other
    given = {name: getattr(options, name) for name in ("seed", "steps", "beta_rejected", "sft_weight")}
    curves = run(Study(**{name: value for name, value in given.items() if value is not None}))
    show(study_table(curves))
    if options.output is not None:
        from eval.report.study import write_study

        write_study(curves, options.output)
        print(options.output)


def _eval(options: argparse.Namespace) -> None:
    from align.plans import stopping_on_signals
    from align.runs import RunFolder, execute
    from align.tables import evaluation_notes, evaluation_table
    from data_pipelines.rollouts.engines import EngineSettings
    from eval.suites import How, read_results, remarks, stages_of

    for given in options.data:
        if "=" not in given:
            raise AlignError(f"--data {given}: expected SUITE=FILE, such as gsm8k=test.jsonl")
    engine = EngineSettings(options.engine, options.dtype, tensor_parallel=options.tensor_parallel, url=options.url)
    how = How(
        engine, False if options.no_chat else None, options.limit, dict(given.split("=", 1) for given in options.data), options.samples,
        options.max_new_tokens, options.system, [int(token) if token.isdecimal() else token for token in options.stop_token],
        shots=options.shots,
    )  # fmt: skip
    stages = stages_of(options.suite, options.model, how)
    others = read_results(options.suite, RunFolder(options.against)) if options.against else {}
    folder = RunFolder(options.output or Path("runs/eval") / Path(options.model).name)
    folder.path.mkdir(parents=True, exist_ok=True)
    with stopping_on_signals() as stop, contextlib.closing(lines_of(options)) as lines:
        execute(stages, folder, stop=stop, say=lines.say, watcher=lines)
    results = read_results(options.suite, folder)
    show(evaluation_table(results, others))
    for note in evaluation_notes(results):
        print(note)
    if options.against:
        for sentence in remarks(results, folder, others, RunFolder(options.against)):
            print(sentence)


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


def _judge(options: argparse.Namespace) -> None:
    from eval.win_rates.judges import TEMPLATE, EndpointJudge, LocalJudge, check_template
    from eval.win_rates.judging import annotate, read_pairs

    template = TEMPLATE
    if options.template is not None:
        if not options.template.is_file():
            raise AlignError(f"--template {options.template}: no such file")
        template = options.template.read_text(encoding="utf-8")
        check_template(template, str(options.template))
    pairs = read_pairs(options.outputs, options.baseline)
    key = os.environ.get("ALIGN_JUDGE_KEY", "")
    judge = (
        EndpointJudge(options.url, options.judge, key=key, connections=options.connections) if options.url else LocalJudge(options.judge)
    )
    both = not options.one_order
    path, orders = annotate(pairs, judge, options.output, template=template, both_orders=both, say=lambda line: print(line, flush=True))
    _show_win_rate(path, options.length_control, orders, template)


def _win_rate(options: argparse.Namespace) -> None:
    _show_win_rate(options.annotations, options.length_control)


def _show_win_rate(path: Path, length_control: str | None, orders: Sequence[tuple[float, float]] = (), template: str = "") -> None:
    from align.tables import win_rate_table
    from eval.win_rates import length_controlled, read_annotations, read_gamed, suspicious, win_rate

    annotations = read_annotations(path, keep_aside=path.with_suffix(".rejected.jsonl"))
    rate = win_rate(annotations)
    controlled: Controlled | None = None
    try:
        controlled = length_controlled(annotations, read_gamed(length_control))
    except AlignError as error:
        if length_control is not None:
            raise
        print(f"align: not the leaderboard's length control: {error} (--length-control)", file=sys.stderr)
        try:
            controlled = length_controlled(annotations, None)
        except AlignError as other:
            print(f"align: {other}", file=sys.stderr)
    show(win_rate_table(annotations[0], rate, controlled))
    for flag in suspicious([one.output_2 for one in annotations], orders, template):
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
