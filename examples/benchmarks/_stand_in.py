"""A stand-in for a language model: a server on this machine that answers like the nearest example in the prompt.

It shows that prompted experts work from end to end, over HTTP, without a model's weights or a key. How well a real
language model would do, it does not show.
"""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

__all__ = ["nearest_example", "stand_in_server"]


@contextmanager
def stand_in_server() -> Iterator[str]:
    """Run the server, and yield its address."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/v1"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def nearest_example(prompt: str) -> str:
    r"""Answer like the example whose numbers are nearest (squared distance).

    Example:
        >>> nearest_example("[0.1, 0.2]\nAnswer: yes\n\n[5.0, 5.0]\nAnswer: no\n\n[0.0, 0.0]\nAnswer:")
        'yes'
    """
    *examples, question = [part for part in prompt.split("\n\n") if "Answer:" in part]
    asked = _numbers(question)
    distances = [sum((a - b) ** 2 for a, b in zip(_numbers(example), asked, strict=True)) for example in examples]
    return examples[distances.index(min(distances))].rsplit("Answer: ", 1)[1].strip()


def _numbers(text: str) -> list[float]:
    return [float(number) for number in re.findall(r"-?\d+\.?\d*(?:e-?\d+)?", text.split("Answer:")[0])]


class _Handler(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        prompt = asked["messages"][0]["content"]
        answer = nearest_example(prompt)
        usage = {"prompt_tokens": len(prompt.split()), "completion_tokens": 1}
        body = json.dumps({"choices": [{"message": {"content": answer}}], "usage": usage}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args: object) -> None:
        """Say nothing."""
