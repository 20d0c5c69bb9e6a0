"""A W&B server on this machine that misbehaves."""

import json
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

ANSWER: dict[str, Any] = {
    "data": {
        "model": {"bucket": None},
        "viewer": {
            "id": "1",
            "username": "u",
            "entity": "e",
            "flags": "{}",
            "teams": {"edges": []},
        },
        "serverInfo": {"cliVersionInfo": {}, "latestLocalVersionInfo": None, "features": []},
        "upsertBucket": {
            "bucket": {
                "id": "b",
                "name": "abcd1234",
                "displayName": "n",
                "description": "",
                "config": "{}",
                "sweepName": None,
                "historyLineCount": 0,
                "project": {"id": "p", "name": "p", "entity": {"id": "e", "name": "e"}},
            },
            "inserted": True,
        },
    }
}


@contextmanager
def refusing() -> Iterator[str]:
    """Address of a port that nobody listens on."""
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))  # bound and not listening: refused, and nobody else's
        yield f"http://127.0.0.1:{held.getsockname()[1]}"


@contextmanager
def hanging() -> Iterator[str]:
    """Accepts connections, and says nothing."""
    # the system completes connections that nobody has accepted yet
    with socket.create_server(("127.0.0.1", 0), backlog=100) as server:
        yield f"http://127.0.0.1:{server.getsockname()[1]}"


@contextmanager
def dying(seen: list[str]) -> Iterator[str]:
    """Lets a run begin, then answers nothing more to what the run sends.

    ``seen`` gets the paths that were asked for.
    """
    over = threading.Event()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers.get("Content-Length", 0)))
            seen.append(self.path)
            if self.path != "/graphql":
                over.wait()
                return
            body = json.dumps(ANSWER).encode()
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        do_GET = do_PUT = do_POST  # noqa: N815

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    over.set()
    server.shutdown()
    server.server_close()
