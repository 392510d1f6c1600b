"""Judges: a real HTTP endpoint that fails, rate-limits, answers with and without log-probs; and a local model."""

import json
import math
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
import torch
from conftest import align_here

from align.errors import AlignError
from align.runs import read_journal
from eval.win_rates import read_annotations, win_rate
from eval.win_rates.judges import TEMPLATE, Ask, EndpointJudge, LocalJudge, Pair, filled
from eval.win_rates.judging import annotate, read_pairs


class Endpoint:
    """A server whose judge likes the longer answer; `fails` says what it answers instead, by number of request."""

    def __init__(self, fails=lambda number: None, logprobs=True, reply=lambda letter: letter):
        self.asked, self.lock = [], threading.Lock()
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self):
                body = json.loads(self.rfile.read(int(self.headers["content-length"])))
                with outer.lock:
                    outer.asked.append(body)
                    failed = fails(len(outer.asked))
                if body.get("logprobs") and not logprobs:
                    failed = (400, {}, "no logprobs here")
                if failed:
                    return self.say(*failed)
                text = body["messages"][0]["content"]
                first, second = text.partition("Answer A:\n")[2].split("\n\nWhich answer")[0].split("\n\nAnswer B:\n")
                chance = 1 / (1 + math.exp((len(first) - len(second)) / 10))
                letter = "B" if chance > 0.5 else "A"
                choice = {"message": {"content": reply(letter)}}
                if logprobs:
                    top = [{"token": " A", "logprob": math.log(1 - chance)}, {"token": "B", "logprob": math.log(chance)}]
                    choice["logprobs"] = {"content": [{"top_logprobs": top}]}
                return self.say(200, {}, json.dumps({"choices": [choice]}))

            def say(self, status, headers, text):
                self.send_response(status)
                for name, value in headers.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(text.encode())

            def log_message(self, *arguments):
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/v1"

    def __enter__(self):
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *exception):
        self.server.shutdown()
        self.server.server_close()


PAIRS = [Pair(n, f"question {n}", "x" * 20, "y" * (15 + n), ("base", "mine")) for n in range(12)]


def expected(pair):
    return 1 / (1 + math.exp((len(pair.baseline) - len(pair.output)) / 10))


@pytest.mark.slow
@pytest.mark.parametrize("both", [True, False])
def test_preferences_are_read_from_log_probs_in_either_order(both, tmp_path):
    with Endpoint() as server:
        path, orders = annotate(PAIRS, EndpointJudge(server.url, "j"), tmp_path, both_orders=both)
    found = read_annotations(path)
    assert [one.preference for one in found] == pytest.approx([expected(pair) for pair in PAIRS])
    assert (found[0].baseline, found[0].model) == ("base", "mine")
    assert len(server.asked) == len(PAIRS) * (1 + both)
    assert len(orders) == len(PAIRS) * both
    assert all(first == pytest.approx(second) for first, second in orders)


def test_an_endpoint_without_log_probs_is_read_by_its_words(tmp_path):
    replies = iter([*["Answer: {}."] * 20, "A or B", *["neither"] * 50])
    with Endpoint(logprobs=False, reply=lambda letter: next(replies).format(letter)) as server:
        path, _ = annotate(PAIRS, EndpointJudge(server.url, "j", connections=1), tmp_path, both_orders=False)
        assert len(server.asked) == len(PAIRS) + 1, "that there are none is learned once"
        assert [one.preference for one in read_annotations(path)] == [float(expected(pair) > 0.5) for pair in PAIRS]
        path, _ = annotate(PAIRS, EndpointJudge(server.url, "j", connections=1), tmp_path / "again", both_orders=False)
    rate = win_rate(read_annotations(path))
    assert rate.without == 4  # eight were still said plainly, one named both, three neither


def test_limits_and_failures_are_waited_out(tmp_path):
    """Every other request is refused for a while: too many, overloaded, gone wrong."""
    kinds = [(429, {"Retry-After": "0.01"}, "slow down"), (503, {}, "busy"), (500, {}, "oops"), (429, {"Retry-After": "soon"}, "")]
    with Endpoint(fails=lambda n: kinds[n // 2 % 4] if n % 2 else None) as server:
        path, _ = annotate(PAIRS, EndpointJudge(server.url, "j", pause=0.01, connections=4), tmp_path)
    assert [one.preference for one in read_annotations(path)] == pytest.approx([expected(pair) for pair in PAIRS])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("failed", "message"),
    [
        ((500, {}, "broken"), "gave no answer in 2 attempts .500: broken.; verdicts so far are kept"),
        ((401, {}, "no such key"), "refused .401: no such key.; verdicts so far are kept"),
        ((200, {}, '{"choices": []}'), "the answer lacks what /v1/chat/completions has .IndexError"),
        ((200, {}, "<html>"), "the answer lacks what /v1/chat/completions has .JSONDecodeError"),
    ],
)
def test_when_it_gives_up_nothing_is_lost_and_the_same_command_goes_on(failed, message, tmp_path):
    with Endpoint(fails=lambda n: failed if n > 10 else None) as server, pytest.raises(AlignError, match=message):
        annotate(PAIRS, EndpointJudge(server.url, "j", attempts=2, pause=0.01, connections=1), tmp_path)
    kept = read_journal(tmp_path / "verdicts")
    assert len(kept) == 10
    with Endpoint() as server:
        path, _ = annotate(PAIRS, EndpointJudge(server.url, "j"), tmp_path)
        assert len(server.asked) == 2 * len(PAIRS) - 10, "what was judged is not asked again"
    assert [one.preference for one in read_annotations(path)] == pytest.approx([expected(pair) for pair in PAIRS])
    with pytest.raises(AlignError, match="the verdicts in it are of another judge"):
        annotate(PAIRS, EndpointJudge(server.url, "other"), tmp_path)
    with pytest.raises(AlignError, match="the verdicts in it are of other outputs"):
        annotate(PAIRS[1:], EndpointJudge(server.url, "j"), tmp_path)


def test_nobody_there(tmp_path):
    with pytest.raises(AlignError, match=r"gave no answer in 2 attempts \(ConnectError\)"):
        annotate(PAIRS, EndpointJudge("http://127.0.0.1:9", "j", attempts=2, pause=0.01), tmp_path)


def test_a_local_model_judges_by_its_next_token(base_folder, tmp_path):
    judge = LocalJudge(str(base_folder), dtype="float32")
    path, orders = annotate(PAIRS[:3], judge, tmp_path)
    from align.models import load_model, load_tokenizer

    model, tokenizer = load_model(str(base_folder), dtype="float32").eval(), load_tokenizer(str(base_folder))
    for pair, (first, second) in zip(PAIRS[:3], orders, strict=True):
        for swapped, preference in ((True, first), (False, second)):
            text = filled(TEMPLATE, Ask(pair, swapped))
            ids = tokenizer.apply_chat_template([{"role": "user", "content": text}], add_generation_prompt=True, return_dict=False)
            with torch.no_grad():
                logits = model(torch.tensor([ids])).logits[0, -1]
            a, b = (logits[tokenizer.encode(letter)[0]].item() for letter in "AB")
            chance = 1 / (1 + math.exp(a - b))
            assert preference == pytest.approx(1 - chance if swapped else chance, abs=1e-4)
    assert len(read_annotations(path)) == 3


def test_outputs_are_put_in_as_they_are():
    pair = Pair(0, "say {first}", "{second}", "{instruction}", ("a", "b"))
    assert filled("{instruction}|{first}|{second}", Ask(pair, False)) == "say {first}|{second}|{instruction}"
    assert filled("{instruction}|{first}|{second}", Ask(pair, True)) == "say {first}|{instruction}|{second}"


def test_the_command_and_its_mistakes(tmp_path):
    write = lambda name, records: (tmp_path / name).write_text(json.dumps(records))
    write("mine.json", [{"instruction": pair.instruction, "output": pair.output, "generator": "mine"} for pair in PAIRS])
    write("base.json", [{"instruction": pair.instruction, "output": pair.baseline, "generator": "base"} for pair in PAIRS])
    assert read_pairs(tmp_path / "mine.json", tmp_path / "base.json") == PAIRS
    arguments = ("judge", tmp_path / "mine.json", "--baseline", tmp_path / "base.json", "--judge", "j", "--output", tmp_path / "judged")
    with Endpoint() as server:
        found = align_here(*arguments, "--url", server.url)
    assert found.returncode == 0, found.stderr
    assert "24 of 24 verdicts" in found.stdout
    assert "mine against base" in found.stdout
    (tmp_path / "template.txt").write_text("{instruction} {first}")
    for changed, message in (
        (("--template", tmp_path / "template.txt"), "there is no place for {second}"),
        (("--template", tmp_path / "nowhere.txt"), "no such file"),
        (("--baseline", tmp_path / "nowhere.json"), "cannot be read"),
    ):
        found = align_here(*arguments, "--url", server.url, *changed)
        assert (found.returncode, message in found.stderr) == (2, True), found.stderr
    write("base.json", [{"instruction": "question 0", "ouput": "x"}])
    found = align_here(*arguments, "--url", server.url)
    assert "record 0: 'output' is missing or no text: did you mean 'ouput'?" in found.stderr
    write("base.json", [{"instruction": "question 0", "output": "x"}])
    found = align_here(*arguments, "--url", server.url)
    assert "there is no output to the instruction of" in found.stderr
