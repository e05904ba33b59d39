"""Language models as experts: prompts and answers, and an endpoint against a real server with real faults."""

from __future__ import annotations

import asyncio
import copy
import json
import os
import sys
import threading
import time
import traceback
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from i2moe import MMoE
from i2moe.categorization import LikeliestClass, categorize
from i2moe.mmoe import Progress, Recipe, Training
from i2moe.mmoe.prompting import ChatEndpoint, EndpointError, FewShotExpert, Usage
from i2moe.mmoe.prompting.endpoint import _seconds

LABELS = ["low", "high"]
X = (torch.linspace(0, 1, 10).unsqueeze(1), torch.arange(10).unsqueeze(1))
Y = (X[0][:, 0] > 0.5).long()


def nearest(prompt: str) -> str:
    """Stand for a language model: give the answer of the example nearest to the question."""
    *examples, question = prompt.split("numbers [")[1:]
    value = float(question.split("]")[0])
    return min(examples, key=lambda text: abs(float(text.split("]")[0]) - value)).split("Answer: ")[1].split()[0]


def expert(generate: Callable[[str], str] = nearest, **changes: Any) -> FewShotExpert:
    arguments: dict[str, Any] = {"template": "numbers {0}", "labels": LABELS, "k": 6}
    arguments |= changes
    return FewShotExpert(generate, **arguments)


# Prompts and answers


def test_the_prompt_shows_k_examples_of_the_samples_it_was_fitted_with() -> None:
    asked = expert(k=4)
    asked.fit(X, Y)
    text = asked.prompt((torch.tensor([0.25]), torch.tensor([3])))
    assert text.startswith("Answer with one of: low, high.\n\n")
    assert text.endswith("numbers [0.25]\nAnswer:")
    assert text.count("Answer: low") == text.count("Answer: high") == 2  # evenly, as far as there are
    own = {round(float(value), 3) for value in X[0]}
    assert all(float(part.split("]")[0]) in own for part in text.split("numbers [")[1:-1])


@pytest.mark.parametrize("k", [0, 1, 3, 10, 99])
def test_k_examples_each_at_most_once(k: int) -> None:
    asked = expert(k=k)
    asked.fit(X, Y)
    assert len(asked.examples) == len(set(asked.examples)) == min(k, 10)


def test_examples_depend_on_the_seed_alone() -> None:
    def examples(seed: int) -> tuple[str, ...]:
        torch.manual_seed(torch.initial_seed() + 1)
        asked = expert(seed=seed, k=4)
        asked.fit(X, Y)
        return asked.examples

    assert examples(0) == examples(0)
    assert len({examples(seed) for seed in range(5)}) > 1


def test_a_model_that_can_tell_is_right() -> None:
    asked = expert(k=10)
    asked.fit(X, Y)
    found = asked(X)
    assert torch.equal(found.argmax(-1), Y)
    torch.testing.assert_close(found.sum(-1), torch.ones(10))
    assert [exchange.accepted for exchange in asked.transcript] == [True] * 10


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ("high", [0.1, 0.9]),
        (" High.\n", [0.1, 0.9]),
        ("The answer is: LOW!", [0.9, 0.1]),
        ('{"low": 0.25, "high": 0.75}', [0.25, 0.75]),
        ('{"HIGH": 1}', [0.0, 1.0]),
        ("high or low", None),
        ("higher", None),
        ('{"answer": "high"}', [0.1, 0.9]),
        ('```json\n{"low": 0.25, "high": 0.75}\n```', [0.25, 0.75]),
        ('Surely: {"high": 1.0}.', [0.0, 1.0]),
        ('{"low": 0.0}', None),
        ('I say {"low": 0.0}', None),
        ('{"low": null}', None),
        ('{"high": 0.4}', None),
        ("{" * 100_000 + "}", None),
        ("", None),
        ("I cannot help with that", None),
        ('{"low": 0.5, "high": 0.9}', None),
        ('{"low": -1, "high": 2}', None),
        ('{"low": 0.5, "high": 0.3, "medium": 0.2}', None),
        ('{"low": NaN, "high": 1}', None),
        ('["what"]', None),
        ("{}", None),
    ],
)
def test_answers_become_probabilities_or_are_refused(answer: str, expected: list[float] | None) -> None:
    found = expert().parse(answer)
    assert found == (None if expected is None else pytest.approx(expected))


def test_of_a_name_within_a_name_the_longer_counts() -> None:
    asked = expert(labels=["funny", "not funny"])
    assert asked.parse("Not funny") == pytest.approx([0.1, 0.9])
    assert asked.parse("funny") == pytest.approx([0.9, 0.1])
    assert asked.parse("It could be funny or not funny.") is None


def test_garbage_is_asked_about_again_and_then_refused() -> None:
    answers = iter(["hm", "maybe", "low", "hm", "hm", "hm"])
    asked = expert(lambda prompt: next(answers), k=0)
    assert asked((X[0][:1], X[1][:1])).argmax(-1).tolist() == [0]
    assert [exchange.answer for exchange in asked.transcript] == ["hm", "maybe", "low"]
    assert asked.transcript[1].prompt.startswith("Answer with nothing but one of")
    with pytest.raises(ValueError, match=r"after 3 attempts it said 'hm'"):
        asked((X[0][1:2], X[1][1:2]))
    assert [exchange.accepted for exchange in asked.transcript] == [False, False, True, False, False, False]


def test_the_same_prompt_is_paid_for_once() -> None:
    asked = expert(k=4)
    asked.fit(X, Y)
    first = asked(X)
    assert torch.equal(asked(X), first)
    assert len(asked.transcript) == 10
    copied = copy.deepcopy(asked)
    assert torch.equal(copied(X), first)
    assert not copied.transcript
    loaded = expert(k=4)
    loaded.load_state_dict(asked.state_dict())
    assert torch.equal(loaded(X), first)
    assert not loaded.transcript


def test_the_same_prompt_is_paid_for_once_when_sent_at_once() -> None:
    n_calls = 0

    class Slow:
        n_concurrent = 4

        def __call__(self, prompt: str) -> str:
            nonlocal n_calls
            n_calls += 1
            time.sleep(0.1)
            return "low"

    asked = expert(Slow(), k=0)
    same = X[0][:1].expand(6, 1), X[1][:1].expand(6, 1)
    with ThreadPoolExecutor(3) as pool:
        found = list(pool.map(asked, [same] * 3))
    assert n_calls == 1
    assert all(torch.equal(each, torch.tensor([[0.9, 0.1]]).expand(6, 2)) for each in found)


def test_a_prompt_that_failed_is_asked_about_again() -> None:
    answers = iter(["hm", "low"])
    asked = expert(lambda prompt: next(answers), k=0, n_attempts=1)
    with pytest.raises(ValueError, match="after 1 attempts"):
        asked((X[0][:1], X[1][:1]))
    assert asked((X[0][:1], X[1][:1])).argmax(-1).tolist() == [0]


def test_a_template_of_the_users_own_looks_text_up() -> None:
    texts = [f"text number {i}" for i in range(10)]
    asked = expert(lambda prompt: "low", template=lambda sample: texts[int(sample[1])], k=1)
    asked.fit(X, Y)
    assert "text number 7" in asked.prompt((torch.tensor([0.0]), torch.tensor([7])))


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (lambda: expert("gpt"), TypeError, "generate must map"),  # type: ignore[arg-type]
        (lambda: expert(template=3), TypeError, "template must be"),
        (lambda: expert(labels=["a", "A "]), ValueError, "different"),
        (lambda: expert(labels=["a"]), ValueError, "at least two"),
        (lambda: expert(k=-1), ValueError, "k must be"),
        (lambda: expert(n_attempts=0), ValueError, "n_attempts at least 1"),
        (lambda: expert(confidence=0.5), ValueError, "above chance"),
        (lambda: expert(lambda prompt: None)(X), TypeError, "must return text"),  # type: ignore[arg-type, return-value]
        (lambda: expert().fit(X, Y + 1), ValueError, "classes must lie"),
        (lambda: expert().fit(X, Y - 1), ValueError, "classes must lie in \\[0, 2\\), however they lie in \\[-1, 0\\]"),
    ],
)
def test_bad_arguments_are_refused(change: Callable[[], Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        change()


# The endpoint


def completion(text: object, usage: object = MappingProxyType({"prompt_tokens": 100, "completion_tokens": 2})) -> bytes:
    counts = dict(usage) if isinstance(usage, MappingProxyType) else usage
    return json.dumps({"choices": [{"message": {"role": "assistant", "content": text}}], "usage": counts}).encode()


class Server:
    """A real server on this machine; each request gets the next fault, then good answers."""

    def __init__(self) -> None:
        self.faults: list[Callable[[BaseHTTPRequestHandler], None]] = []
        self.requests: list[tuple[dict[str, str], dict[str, Any]]] = []
        self.n_now = self.n_most = 0
        self.answer: Callable[[str], str] = lambda prompt: "low"
        self.delay = 0.0
        self._lock = threading.Lock()
        server = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                server.handle(self)

            def log_message(self, *args: object) -> None:
                pass

        class Quiet(ThreadingHTTPServer):
            daemon_threads = True

            def handle_error(self, *args: object) -> None:  # clients that gave up
                pass

        self.http = Quiet(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.http.server_port}/v1"
        self.thread = threading.Thread(target=self.http.serve_forever, kwargs={"poll_interval": 0.01})
        self.thread.start()

    def handle(self, handler: BaseHTTPRequestHandler) -> None:
        body = json.loads(handler.rfile.read(int(handler.headers["Content-Length"])))
        with self._lock:
            self.requests.append((dict(handler.headers), body | {"path": handler.path}))
            fault = self.faults.pop(0) if self.faults else None
            self.n_now += 1
            self.n_most = max(self.n_most, self.n_now)
        time.sleep(self.delay)
        with self._lock:
            self.n_now -= 1
        if fault is not None:
            fault(handler)
        else:
            reply(handler, 200, completion(self.answer(body["messages"][0]["content"])))

    def close(self) -> None:
        if self.thread.is_alive():
            self.http.shutdown()
            self.thread.join()
            self.http.server_close()


def reply(handler: BaseHTTPRequestHandler, status: int, body: bytes = b"", **headers: str) -> None:
    handler.send_response(status)
    for name, value in headers.items():
        handler.send_header(name.replace("_", "-"), value)
    handler.send_header("Content-Length", str(len(body)))
    handler.end_headers()
    handler.wfile.write(body)


def status(code: int, **headers: str) -> Callable[[BaseHTTPRequestHandler], None]:
    return lambda handler: reply(handler, code, b'{"error": "refused"}', **headers)


def body(content: bytes) -> Callable[[BaseHTTPRequestHandler], None]:
    return lambda handler: reply(handler, 200, content)


def silence(handler: BaseHTTPRequestHandler) -> None:
    time.sleep(0.8)


def hang_up(handler: BaseHTTPRequestHandler) -> None:
    handler.close_connection = True
    handler.connection.close()


def slowly(handler: BaseHTTPRequestHandler, text: bytes) -> None:
    """Send a byte now and then: no single read times out."""
    for byte in text:
        handler.wfile.write(bytes([byte]))
        handler.wfile.flush()
        time.sleep(0.07)


def drip(handler: BaseHTTPRequestHandler, code: int = 200) -> None:
    handler.send_response(code)
    handler.send_header("Content-Length", "100")
    handler.end_headers()
    slowly(handler, b" " * 20)


def drip_an_error(handler: BaseHTTPRequestHandler) -> None:
    drip(handler, 503)


def drip_headers(handler: BaseHTTPRequestHandler) -> None:
    slowly(handler, b"HTTP/1.1 200 OK\r\nX-Slow: yes\r\n")


def half_an_error(handler: BaseHTTPRequestHandler) -> None:
    """Promise more of an error's text than is sent."""
    handler.send_response(503)
    handler.send_header("Content-Length", "100")
    handler.end_headers()
    handler.wfile.write(b"half")
    handler.close_connection = True


def no_zip(handler: BaseHTTPRequestHandler) -> None:
    reply(handler, 200, b"no zip", Content_Encoding="gzip")


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setenv("TEST_KEY", "secret-key")
    running = Server()
    yield running
    running.close()


def endpoint(server: Server, **changes: Any) -> ChatEndpoint:
    arguments: dict[str, Any] = {"key_variable": "TEST_KEY", "timeout": 5.0, "first_wait": 0.01}
    arguments |= changes
    return ChatEndpoint("small", server.url, **arguments)


def test_a_question_is_answered_and_counted(server: Server) -> None:
    ask = endpoint(server, temperature=0.5, max_tokens=7, prices=(10.0, 30.0))
    assert ask("how much?") == "low"
    assert ask("how much more?") == "low"
    headers, sent = server.requests[0]
    assert headers["Authorization"] == "Bearer secret-key"
    assert sent == {
        "model": "small",
        "messages": [{"role": "user", "content": "how much?"}],
        "temperature": 0.5,
        "max_tokens": 7,
        "path": "/v1/chat/completions",
    }
    assert ask.usage == Usage(2, 0, 200, 4, ask.usage.cost)
    assert ask.usage.cost == pytest.approx(2 * (100 * 10 + 2 * 30) / 1e6)
    assert "secret" not in repr(ask) + str(vars(ask))


@pytest.mark.parametrize(
    "fault",
    [
        silence,
        hang_up,
        drip,
        drip_headers,
        drip_an_error,
        half_an_error,
        no_zip,
        status(429),
        status(500),
        status(503),
        body(b"not json"),
        body(b"{}"),
        body(b'{"choices": []}'),
        body(b"[]"),
        body(b"null"),
        body(b"[" * 100_000),
        body(completion(None)),
        body(completion(["low"])),
    ],
    ids=lambda fault: getattr(fault, "__name__", ""),
)
def test_a_fault_is_survived_and_lasting_ones_are_reported(
    server: Server, fault: Callable[[BaseHTTPRequestHandler], None]
) -> None:
    timeout = 0.4 if fault in (silence, drip, drip_headers, drip_an_error) else 5.0
    server.faults = [fault, fault]
    ask = endpoint(server, n_attempts=3, timeout=timeout)
    assert ask("how much?") == "low"
    assert (ask.usage.n_requests, ask.usage.n_retries) == (3, 2)

    server.faults = [fault] * 9
    begin = time.monotonic()
    with pytest.raises(EndpointError, match="after 2 of 2 attempts") as caught:
        endpoint(server, n_attempts=2, timeout=timeout)("how much?")
    assert time.monotonic() - begin < 1.6
    assert len(server.faults) == 7
    assert "secret" not in str(caught.value)

    server.faults = [fault]
    assert endpoint(server, n_attempts=2, timeout=timeout, first_wait=5, max_wait=0.01)("how much?") == "low"


def test_the_wait_the_server_asks_for_is_kept(server: Server) -> None:
    server.faults = [status(429, Retry_After="0.4")]
    begin = time.monotonic()
    assert endpoint(server)("how much?") == "low"
    assert 0.4 <= time.monotonic() - begin < 1.5


def test_a_server_that_asks_for_too_long_a_wait_is_not_waited_for(server: Server) -> None:
    server.faults = [status(429, Retry_After="3600")]
    begin = time.monotonic()
    with pytest.raises(EndpointError, match="429"):
        endpoint(server)("how much?")
    assert time.monotonic() - begin < 1


def test_waits_are_read_as_seconds_or_dates() -> None:
    now = datetime(2026, 1, 1, tzinfo=UTC)
    assert _seconds("1.5") == 1.5
    assert _seconds("-3") == 0
    assert _seconds(format_datetime(now + timedelta(seconds=30), usegmt=True), lambda: now) == 30
    assert _seconds("soon") is None
    assert _seconds(None) is None


@pytest.mark.parametrize(
    ("usage", "expected"),
    [
        (None, (0, 0)),
        ("none", (0, 0)),
        ([], (0, 0)),
        ({}, (0, 0)),
        ({"prompt_tokens": None, "completion_tokens": 3}, (0, 3)),
        ({"prompt_tokens": float("inf"), "completion_tokens": float("nan")}, (0, 0)),
        ({"prompt_tokens": 5.0, "completion_tokens": "3"}, (5, 0)),
        ({"prompt_tokens": -5}, (0, 0)),
    ],
)
def test_an_answer_without_proper_counts_is_kept(server: Server, usage: object, expected: tuple[int, int]) -> None:
    server.faults = [body(completion("high", usage))]
    ask = endpoint(server)
    assert ask("how much?") == "high"
    assert ask.usage == Usage(1, 0, *expected, 0.0)


@pytest.mark.parametrize("key", ["secret\nkey", "secret\r\nX: key", "secret-kéy", "secret key", "secret\x00key"])
def test_a_key_that_no_header_can_hold_is_not_printed(
    server: Server, monkeypatch: pytest.MonkeyPatch, key: str
) -> None:
    monkeypatch.setattr(os, "environ", {"TEST_KEY": key})
    with pytest.raises(EndpointError, match="TEST_KEY must be of printable ASCII") as caught:
        endpoint(server)("how much?")
    assert "secret" not in "".join(traceback.format_exception(caught.value))
    assert not server.requests


def test_too_long_an_answer_is_refused(server: Server) -> None:
    server.faults = [body(b" " * (4 * 2**20 + 1))]
    with pytest.raises(EndpointError, match="at most 4194304 bytes"):
        endpoint(server)("how much?")


def test_it_can_be_called_where_an_event_loop_runs(server: Server) -> None:
    async def in_a_notebook() -> str:
        return endpoint(server)("how much?")

    assert asyncio.run(in_a_notebook()) == "low"


def test_without_the_client_the_cure_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "httpx2", None)
    with pytest.raises(ImportError, match=r"pip install 'i2moe\[prompting\]'"):
        ChatEndpoint("small", "http://127.0.0.1:9/v1", key_variable=None)("how much?")


@pytest.mark.parametrize("code", [400, 401, 403, 404, 302])
def test_a_refusal_is_not_asked_again(server: Server, code: int) -> None:
    server.faults = [status(code, Location=f"{server.url}/elsewhere")]
    with pytest.raises(EndpointError, match=f"answered status {code}"):
        endpoint(server)("how much?")
    assert len(server.requests) == 1  # a redirect would carry the key away


def test_an_endpoint_that_does_not_listen_is_given_up(server: Server) -> None:
    ask = endpoint(server, n_attempts=2)
    server.close()
    with pytest.raises(EndpointError, match="after 2 of 2 attempts"):
        ask("how much?")


def test_a_missing_key_is_said_before_anything_is_sent(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TEST_KEY")
    with pytest.raises(EndpointError, match="TEST_KEY must hold the key"):
        endpoint(server)("how much?")
    assert not server.requests
    assert endpoint(server, key_variable=None)("how much?") == "low"
    assert "Authorization" not in server.requests[0][0]


@pytest.mark.parametrize("n_concurrent", [1, 3])
def test_no_more_requests_at_once_than_allowed(server: Server, n_concurrent: int) -> None:
    server.delay = 0.2
    server.answer = nearest
    asked = expert(endpoint(server, n_concurrent=n_concurrent), k=10)
    asked.fit(X, Y)
    assert torch.equal(asked(X).argmax(-1), Y)  # in the order of the samples
    assert server.n_most == n_concurrent


def test_wrong_labels_from_a_server_are_refused(server: Server) -> None:
    server.answer = lambda prompt: "medium"
    ask = endpoint(server)
    with pytest.raises(ValueError, match="must name one of"):
        expert(ask, k=0)((X[0][:1], X[1][:1]))
    assert ask.usage.n_requests == 3


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda: ChatEndpoint("m", "ftp://host/v1"), "http or https"),
        (lambda: ChatEndpoint("m", "host/v1"), "http or https"),
        (lambda: ChatEndpoint("m", "http://example.org/v1"), "over https"),
        (lambda: ChatEndpoint("m", "https://example.org/v1", timeout=0), "timeout must be"),
        (lambda: ChatEndpoint("m", "https://example.org/v1", n_attempts=0), "at least 1"),
    ],
)
def test_bad_endpoints_are_refused(change: Callable[[], Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        change()


# Together with MMoE


class Sum(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(1, 2)

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        outputs: Tensor = self.head(a)
        return outputs


def test_a_server_that_goes_away_loses_no_stage(server: Server, tmp_path: Path) -> None:
    """The first expert is answered, the second is not; the same call later goes on from there."""
    server.answer = nearest
    quick = Training(n_epochs=1)
    x = (torch.rand(80, 1, generator=torch.Generator().manual_seed(0)), torch.rand(80, 1))
    y = (x[0][:, 0] > 0.5).long()
    unimodal = torch.rand(80, 2, 2, generator=torch.Generator().manual_seed(1)).softmax(-1)

    by_class = partial(categorize, threshold=LikeliestClass())

    def fit(**changes: Any) -> tuple[MMoE, list[Progress]]:
        told: list[Progress] = []
        ask = endpoint(server, n_attempts=2, **changes)
        model = MMoE(Sum, 2, 2, experts=lambda name: expert(ask, k=8), categorizer=by_class)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)
            model.fit(
                x,
                y,
                Recipe(quick, quick, quick, n_folds=1, min_samples=4),
                unimodal_predictions=unimodal,
                checkpoint_dir=tmp_path,
                progress=told.append,
            )
        return model, told

    server.faults = [lambda handler: reply(handler, 200, completion("low")), hang_up, hang_up]
    with pytest.raises(EndpointError, match="after 2 of 2 attempts") as caught:
        fit()
    assert "['baseline', 'categories', 'expert/uniqueness/0'] are kept" in caught.value.__notes__[0]

    model, told = fit()
    assert [p.stage for p in told if p.event == "restored"] == ["baseline", "categories", "expert/uniqueness/0"]
    report = model.report(x, y, unimodal_predictions=unimodal)
    assert report.overall.oracle > 0.8  # the answer of the nearest of eight examples
