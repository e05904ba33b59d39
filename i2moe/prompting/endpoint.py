"""Chat endpoint: text in, text out, over the OpenAI-compatible protocol, with the standard library alone."""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from http.client import HTTPException, HTTPResponse
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.parse import urlsplit
from urllib.request import HTTPRedirectHandler, Request, build_opener

__all__ = ["ChatEndpoint", "EndpointError", "Usage"]

_WORTH_RETRYING = frozenset({408, 409, 425, 429, 500, 502, 503, 504})
_MOST_BYTES = 4 * 2**20


class EndpointError(RuntimeError):
    """A server that does not answer, refuses, or answers with something else than text."""


@dataclass(frozen=True)
class Usage:
    """What was asked of an endpoint.

    Args:
        n_requests: requests sent, retries included.
        n_retries: requests that repeated one that failed.
        prompt_tokens: tokens sent, as the server counts them.
        completion_tokens: tokens received, as the server counts them.
        cost: in the currency of the prices.
    """

    n_requests: int = 0
    n_retries: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cost: float = 0.0


class _RetryableError(Exception):
    """An attempt failed; another may not."""

    def __init__(self, reason: str, wait: float | None = None) -> None:
        super().__init__(reason)
        self.wait = wait


class _NoRedirects(HTTPRedirectHandler):
    """Follow no redirect: the key would be sent to wherever it leads."""

    def redirect_request(self, *args: Any, **kwargs: Any) -> None:
        return None


class ChatEndpoint:
    """Ask a server that speaks the OpenAI-compatible chat protocol; call it with a prompt.

    Every attempt has a time limit. Attempts that time out, lose the connection, bring no valid answer, or are refused
    for now (429, 5xx) are repeated up to `n_attempts` in all, after the wait that the server asks for or a growing one.
    Other refusals (a wrong key, an unknown model) are final. It can be called from several threads.

    Args:
        model: the model's name, as the server calls it.
        base_url: where the server is; "/chat/completions" is added.
        key_variable: the environment variable that holds the key, read at every request and never kept; None sends no
            key. Keys go over https only, or to this machine.
        timeout: time limit of one attempt, seconds.
        n_attempts: requests per prompt at most.
        n_concurrent: requests at the same time at most.
        max_wait: longest wait between attempts, seconds; a server that asks for more is not waited for.
        first_wait: the wait after the first failure, seconds; it doubles each time.
        max_tokens: length of the answer at most.
        temperature: of sampling; 0 takes the likeliest words.
        prices: cost of a million tokens sent and received.

    Raises:
        ValueError: if a number is out of range, or the address is no http(s) one or a key would go unencrypted.

    Example:
        >>> endpoint = ChatEndpoint("small", "http://127.0.0.1:8000/v1", key_variable=None)
        >>> endpoint.usage
        Usage(n_requests=0, n_retries=0, prompt_tokens=0, completion_tokens=0, cost=0.0)
    """

    def __init__(
        self,
        model: str,
        base_url: str,
        *,
        key_variable: str | None = "OPENAI_API_KEY",
        timeout: float = 60.0,
        n_attempts: int = 4,
        n_concurrent: int = 4,
        max_wait: float = 60.0,
        first_wait: float = 1.0,
        max_tokens: int = 64,
        temperature: float = 0.0,
        prices: tuple[float, float] = (0.0, 0.0),
    ) -> None:
        if not (timeout > 0 and n_attempts >= 1 and n_concurrent >= 1 and max_wait >= 0 and first_wait >= 0):
            raise ValueError(
                "timeout must be positive, n_attempts and n_concurrent at least 1, waits not negative, however they "
                f"are {timeout}, {n_attempts}, {n_concurrent}, {max_wait} and {first_wait}"
            )
        _check_url(base_url, key_variable)
        self.model = model
        self.base_url: str = base_url.rstrip("/")
        self.key_variable = key_variable
        self.timeout = timeout
        self.n_attempts = n_attempts
        self.n_concurrent = n_concurrent
        self.max_wait = max_wait
        self.first_wait = first_wait
        self.max_tokens = max_tokens
        self.temperature = temperature
        self.prices = prices
        self._usage = Usage()
        self._lock = threading.Lock()
        self._slots = threading.BoundedSemaphore(n_concurrent)
        self._open = build_opener(_NoRedirects()).open

    @property
    def usage(self) -> Usage:
        """Requests, tokens and cost so far."""
        return self._usage

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.model!r}, {self.base_url!r})"

    def __call__(self, prompt: str) -> str:
        """Return the model's answer.

        Raises:
            EndpointError: if there is none after all attempts, the server refuses, or the key is missing.
        """
        wait = self.first_wait
        for attempt in range(1, self.n_attempts + 1):
            try:
                with self._slots:
                    return self._attempt(prompt, is_retry=attempt > 1)
            except _RetryableError as error:
                pause = wait if error.wait is None else error.wait
                if attempt == self.n_attempts or pause > self.max_wait:
                    raise EndpointError(
                        f"{self.base_url} must answer, however after {attempt} of {self.n_attempts} attempts: {error}"
                    ) from error
            time.sleep(pause)
            wait = min(2 * wait, self.max_wait)
        raise AssertionError("unreachable")

    def _attempt(self, prompt: str, *, is_retry: bool) -> str:
        request = self._request(prompt)
        self._count(n_requests=1, n_retries=int(is_retry))
        deadline = time.monotonic() + self.timeout
        try:
            with self._open(request, timeout=self.timeout) as response:
                body = _read(response, deadline)
        except HTTPError as error:
            with error:
                raise _refusal(error) from error
        except TimeoutError as error:
            raise _RetryableError(f"no answer within {self.timeout:g} s") from error
        except (URLError, HTTPException, OSError) as error:
            reason = getattr(error, "reason", error)
            late = isinstance(reason, TimeoutError)
            raise _RetryableError(f"no answer within {self.timeout:g} s" if late else f"{reason!r}") from error
        return self._answer(body)

    def _request(self, prompt: str) -> Request:
        content = {
            "model": self.model,
            "messages": [{"role": "user", "content": prompt}],
            "temperature": self.temperature,
            "max_tokens": self.max_tokens,
        }
        headers = {"Content-Type": "application/json"}
        if self.key_variable is not None:
            key = os.environ.get(self.key_variable, "").strip()
            if not key:
                raise EndpointError(
                    f"the environment variable {self.key_variable} must hold the key, however it is not set; "
                    "key_variable=None sends none"
                )
            headers["Authorization"] = f"Bearer {key}"
        return Request(f"{self.base_url}/chat/completions", json.dumps(content).encode(), headers, method="POST")

    def _answer(self, body: bytes) -> str:
        try:
            content = json.loads(body)
            answer = content["choices"][0]["message"]["content"]
            usage = content.get("usage") or {}
            tokens = int(usage.get("prompt_tokens", 0)), int(usage.get("completion_tokens", 0))
        except (ValueError, KeyError, IndexError, TypeError, AttributeError) as error:
            raise _RetryableError(f"no chat completion, but {body[:200]!r}") from error
        self._count(prompt_tokens=tokens[0], completion_tokens=tokens[1])
        if not isinstance(answer, str):
            raise _RetryableError(f"an answer that is no text, but {answer!r}")
        return answer

    def _count(
        self, *, n_requests: int = 0, n_retries: int = 0, prompt_tokens: int = 0, completion_tokens: int = 0
    ) -> None:
        with self._lock:
            self._usage = Usage(
                self._usage.n_requests + n_requests,
                self._usage.n_retries + n_retries,
                self._usage.prompt_tokens + prompt_tokens,
                self._usage.completion_tokens + completion_tokens,
                self._usage.cost + (self.prices[0] * prompt_tokens + self.prices[1] * completion_tokens) / 1e6,
            )


def _read(response: HTTPResponse, deadline: float) -> bytes:
    """Read an answer, however slowly it drips, until the deadline."""
    parts: list[bytes] = []
    while part := response.read1(65536):
        parts.append(part)
        if time.monotonic() > deadline:
            raise TimeoutError
        if sum(map(len, parts)) > _MOST_BYTES:
            raise EndpointError(f"an answer must have at most {_MOST_BYTES} bytes, however it has more")
    return b"".join(parts)


def _refusal(error: HTTPError) -> Exception:
    detail = error.read(300).decode(errors="replace")
    reason = f"status {error.code} ({error.reason}): {detail}"
    if error.code in _WORTH_RETRYING:
        return _RetryableError(reason, _seconds(error.headers.get("Retry-After")))
    return EndpointError(f"{error.url} must accept the request, however it answered {reason}")


def _seconds(retry_after: str | None, now: Callable[[], datetime] = lambda: datetime.now(UTC)) -> float | None:
    """Read a Retry-After header, seconds or a date; None if it is neither."""
    if retry_after is None:
        return None
    try:
        return max(0.0, float(retry_after))
    except ValueError:
        pass
    try:
        return max(0.0, (parsedate_to_datetime(retry_after) - now()).total_seconds())
    except (TypeError, ValueError):
        return None


def _check_url(base_url: str, key_variable: str | None) -> None:
    parts = urlsplit(base_url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError(f"base_url must be an http or https address, however it is {base_url!r}")
    here = parts.hostname in ("localhost", "127.0.0.1", "::1")
    if parts.scheme == "http" and key_variable is not None and not here:
        raise ValueError(f"a key must go over https, however base_url is {base_url!r}; use https, or key_variable=None")
