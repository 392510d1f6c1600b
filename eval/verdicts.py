"""Numbers of a code evaluation from the verdicts on its programs, and what must be said about them."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

Record = Mapping[str, Any]
"""Of one problem: `greedy` and `sampled`, each a list of programs with their `verdict`."""
HARNESS = "harness_error"
JUDGED = 0.5  # a score is given where at least this share of the programs got a verdict of their own


def pass_at_k(n: int, c: int, k: int) -> float:
    """The chance that one of k programs passes, unbiased: 1 − C(n − c, k) / C(n, k) (arXiv 2107.03374, eq. 1).

    Args:
        n: programs sampled.
        c: of these, how many pass.
        k: at most n.

    >>> round(pass_at_k(10, 3, 1), 4), round(pass_at_k(10, 3, 5), 4)
    (0.3, 0.9167)
    """
    return 1.0 - math.comb(n - c, k) / math.comb(n, k)


def metrics(records: Sequence[Record], ks: Sequence[int]) -> dict[str, float]:
    """`pass@1` of the greedy programs, `sampled pass@k` of the others, and counts.

    A program whose tests could not judge it (`harness_error`) counts as one that does not pass, so that every model is measured on the same
    problems; how many there are stands beside the score, and where they are most of them, there is no score.

    Args:
        records: of all problems.
        ks: those above the number of samples are left out.

    Returns:
        The scores first, or the harness errors where there are none; `parses` and `truncated`, shares of the greedy programs;
        `harness_errors`, programs, sampled ones included; `problems`.
    """
    greedy = [record["greedy"][0] for record in records]
    sampled = [list(record["sampled"]) for record in records if record["sampled"]]
    found: dict[str, float] = {}
    if has_score(greedy):
        found["pass@1"] = _share(greedy, "pass")
    if has_score([one for several in sampled for one in several]):
        counts = [(len(several), sum(one["verdict"] == "pass" for one in several)) for several in sampled]
        for k in ks:
            if counts and k <= min(n for n, _ in counts):
                found[f"sampled pass@{k}"] = sum(pass_at_k(n, c, k) for n, c in counts) / len(counts)
    found["parses"] = 1.0 - _share(greedy, "syntax_error")
    found["truncated"] = sum(one.get("finish_reason") == "length" for one in greedy) / max(1, len(greedy))
    errors = {"harness_errors": float(sum(map(_is_harness_error, _programs(records))))}
    found = {**found, **errors} if "pass@1" in found else {**errors, **found}
    return {**found, "problems": len(records)}


def has_score(programs: Sequence[Record]) -> bool:
    """Whether enough programs were judged for their share of passes to say anything."""
    return sum(map(_is_harness_error, programs)) <= (1.0 - JUDGED) * len(programs)


def note_on(records: Iterable[Record]) -> str | None:
    """A sentence about programs that the tests could not judge; None where there are none.

    >>> note_on([{"greedy": [{"verdict": "harness_error(ModuleNotFoundError: numpy)"}], "sampled": []}])
    'no score: the tests could not judge 1 of 1 programs (harness_error), most often: ModuleNotFoundError: numpy'
    """
    records = list(records)
    programs = list(_programs(records))
    reasons = Counter(_reason(one["verdict"]) for one in programs if _is_harness_error(one))
    if not reasons:
        return None
    count, most = sum(reasons.values()), reasons.most_common(1)[0][0]
    consequence = "they count as not passed" if has_score([record["greedy"][0] for record in records]) else "no score"
    return f"{consequence}: the tests could not judge {count} of {len(programs)} programs (harness_error), most often: {most}"


def _reason(verdict: str) -> str:
    """What stands in the brackets of a verdict."""
    return verdict.partition("(")[2].removesuffix(")") or "no reason given"


def _programs(records: Iterable[Record]) -> Iterable[Record]:
    return (one for record in records for one in (*record["greedy"], *record["sampled"]))


def _is_harness_error(program: Record) -> bool:
    return bool(program["verdict"].startswith(HARNESS))


def _share(programs: Sequence[Record], verdict: str) -> float:
    return sum(one["verdict"].partition("(")[0] == verdict for one in programs) / max(1, len(programs))
