"""Chat endpoint: text in, text out, over the OpenAI-compatible protocol; needs the extra `prompting` (httpx2)."""

from __future__ import annotations

import asyncio
import json
import math
import os
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import KW_ONLY, dataclass, field, replace
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from functools import cache
from ssl import SSLContext
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

if TYPE_CHECKING:
    from httpx2 import Response

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
        prompt_tokens: tokens sent, as the server counts them; 0 for an answer without a count.
        completion_tokens: tokens received, likewise.
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


@dataclass(eq=False)
class ChatEndpoint:
    """Ask a server that speaks the OpenAI-compatible chat protocol; call it with a prompt.

    Every attempt has a time limit, from the connection to the last byte. A failed attempt is repeated, up to
    `n_attempts` in all: after a timeout, a lost connection, an invalid answer, or a refusal for now (429, 5xx). The
    wait is that of the server's `Retry-After`, or grows. Other refusals (a wrong key, an unknown model) are final.
    Redirects are not followed, because they would send the key to another server. It can be called from several
    threads.

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

    model: str
    base_url: str
    _: KW_ONLY
    key_variable: str | None = field(default="OPENAI_API_KEY", repr=False)
    timeout: float = field(default=60.0, repr=False)
    n_attempts: int = field(default=4, repr=False)
    n_concurrent: int = field(default=4, repr=False)
    max_wait: float = field(default=60.0, repr=False)
    first_wait: float = field(default=1.0, repr=False)
    max_tokens: int = field(default=64, repr=False)
    temperature: float = field(default=0.0, repr=False)
    prices: tuple[float, float] = field(default=(0.0, 0.0), repr=False)
    usage: Usage = field(default_factory=Usage, init=False, repr=False)

    def __post_init__(self) -> None:
        counts, waits = (self.n_attempts, self.n_concurrent), (self.first_wait, self.max_wait)
        if not (self.timeout > 0 and min(counts) >= 1 and min(waits) >= 0):
            raise ValueError(
                "timeout must be positive, n_attempts and n_concurrent at least 1, first_wait and max_wait not "
                f"negative, however they are {self.timeout}, {counts} and {waits}"
            )
        _check_url(self.base_url, self.key_variable)
        self.base_url = self.base_url.rstrip("/")
        self._lock = threading.Lock()
        self._slots = threading.BoundedSemaphore(self.n_concurrent)

    def __call__(self, prompt: str) -> str:
        """Return the model's answer.

        Raises:
            EndpointError: if there is none after all attempts, the server refuses, or the key is missing.
            ImportError: if httpx2 is not installed.
        """
        wait = min(self.first_wait, self.max_wait)
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
        httpx2, headers = _import_httpx2(), self._headers()
        self._count(n_requests=1, n_retries=int(is_retry))
        try:
            # A thread of its own: this one may run an event loop already, as notebooks do.
            with ThreadPoolExecutor(1) as pool:
                response, body = pool.submit(asyncio.run, self._post(prompt, headers)).result()
        except TimeoutError as error:
            raise _RetryableError(f"no answer within {self.timeout:g} s") from error
        except httpx2.HTTPError as error:
            raise _RetryableError(f"{error!r}") from error
        if response.status_code != 200:
            raise _refusal(response, body)
        return self._answer(body)

    async def _post(self, prompt: str, headers: dict[str, str]) -> tuple[Response, bytes]:
        """Send the prompt and read what comes back; asyncio's time limit holds however slowly it drips."""
        httpx2 = _import_httpx2()
        content = {
            "model": self.model,
            "messages": [{"role": "user", "content": prompt}],
            "temperature": self.temperature,
            "max_tokens": self.max_tokens,
        }
        url, body = f"{self.base_url}/chat/completions", b""
        async with (
            httpx2.AsyncClient(timeout=None, verify=_ssl_context()) as client,
            asyncio.timeout(self.timeout),
            client.stream("POST", url, json=content, headers=headers) as response,
        ):
            async for part in response.aiter_bytes():
                body += part
                if len(body) > _MOST_BYTES:
                    raise EndpointError(f"an answer must have at most {_MOST_BYTES} bytes, however it has more")
        return response, body

    def _headers(self) -> dict[str, str]:
        if self.key_variable is None:
            return {}
        key = os.environ.get(self.key_variable, "").strip()
        if not key:
            raise EndpointError(
                f"the environment variable {self.key_variable} must hold the key, however it is not set; "
                "key_variable=None sends none"
            )
        if not key.isascii() or not key.isprintable() or " " in key:  # an error of the client's would print it
            raise EndpointError(
                f"the key in {self.key_variable} must be of printable ASCII characters without spaces, however it "
                "holds others (a line break, say); set it again"
            )
        return {"Authorization": f"Bearer {key}"}

    def _answer(self, body: bytes) -> str:
        try:
            content = json.loads(body)
            answer = content["choices"][0]["message"]["content"]
        except (ValueError, LookupError, TypeError, RecursionError) as error:
            raise _RetryableError(f"no chat completion, but {body[:200]!r}") from error
        usage = content.get("usage")
        self._count(
            prompt_tokens=_n_tokens(usage, "prompt_tokens"), completion_tokens=_n_tokens(usage, "completion_tokens")
        )
        if not isinstance(answer, str):
            raise _RetryableError(f"an answer that is no text, but {answer!r}")
        return answer

    def _count(
        self, *, n_requests: int = 0, n_retries: int = 0, prompt_tokens: int = 0, completion_tokens: int = 0
    ) -> None:
        cost = (self.prices[0] * prompt_tokens + self.prices[1] * completion_tokens) / 1e6
        with self._lock:
            self.usage = replace(
                self.usage,
                n_requests=self.usage.n_requests + n_requests,
                n_retries=self.usage.n_retries + n_retries,
                prompt_tokens=self.usage.prompt_tokens + prompt_tokens,
                completion_tokens=self.usage.completion_tokens + completion_tokens,
                cost=self.usage.cost + cost,
            )


def _import_httpx2() -> Any:
    try:
        import httpx2
    except ImportError as error:
        raise ImportError(
            "ChatEndpoint must have httpx2, however it is not installed; pip install 'i2moe[prompting]'"
        ) from error
    return httpx2


@cache
def _ssl_context() -> SSLContext:
    """Load the certificates once: a client that does so takes 50 ms to make."""
    context: SSLContext = _import_httpx2().create_ssl_context()
    return context


def _n_tokens(usage: Any, name: str) -> int:
    """Read a count, 0 where the server gives none that is one: the answer is paid for all the same."""
    count = usage.get(name) if isinstance(usage, dict) else None
    return int(count) if isinstance(count, int | float) and math.isfinite(count) and count >= 0 else 0


def _refusal(response: Response, body: bytes) -> Exception:
    detail = body[:300].decode(errors="replace")
    reason = f"status {response.status_code} ({response.reason_phrase}): {detail}"
    if response.status_code in _WORTH_RETRYING:
        return _RetryableError(reason, _seconds(response.headers.get("Retry-After")))
    return EndpointError(f"{response.url} must accept the request, however it answered {reason}")


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
