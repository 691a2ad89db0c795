"""A tracking server that never answers, that refuses, and that dies while a run reports to it."""

import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from experiments.soak.sweep import RUNS, Answers, Found, Loss, compare, finish, log_of

ROOT = Path(__file__).parents[2]
TRACKED = ["tracking=wandb", "tracking.mode=online", "tracking.init_timeout_seconds=3"]
WARNING = "W&B is off for the rest of this run"


def tracked(server: Callable[[], Any]) -> Callable[[Path, Answers], Found]:
    """The sweep, reporting to a server on this machine, which must cost it neither a sample nor its exit code."""

    def run(folder: Path, whole: Answers) -> Found:
        began = time.monotonic()
        home = folder.parent / "home"  # without a login of the user's own
        home.mkdir(exist_ok=True)
        with server() as (address, asked):
            login = {"WANDB_BASE_URL": address, "WANDB_API_KEY": "x" * 40, "HOME": str(home)}
            code = finish(folder, *TRACKED, **login)
        seconds = time.monotonic() - began
        compare(folder, whole)
        log = log_of(folder).read_text()
        ours = any(f'File "{ROOT / part}' in log for part in ("scope/", "main.py", "hydra_plugins/"))
        if code or ("Traceback" in log and ours):  # a thread of wandb's may end in one of its own once its core is gone
            raise Loss(f"{folder}: exit code {code}, see {log_of(folder)}")
        warnings = log.count(WARNING)
        if not warnings:
            raise Loss(f"{folder}: nobody was told that nothing was tracked")
        tracebacks = log.count("Traceback")
        figures = {"requests": asked(), "warnings": warnings, "seconds": round(seconds, 1), "tracebacks": tracebacks}
        return Found(
            f"exit code 0, {warnings} warnings for {RUNS} runs, {asked()} requests, {seconds:.0f} s; "
            f"{tracebacks} tracebacks of wandb's own threads; nothing lost, doubled or changed",
            figures,
        )

    return run


@contextmanager
def hanging() -> Iterator[tuple[str, Callable[[], int]]]:
    """Connections are made, and nothing is ever answered."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"http://127.0.0.1:{server.getsockname()[1]}", lambda: 0


@contextmanager
def refusing() -> Iterator[tuple[str, Callable[[], int]]]:
    """Every request is forbidden."""
    with Server(lives=0, forbids=True).serving() as served:
        yield served


@contextmanager
def dying() -> Iterator[tuple[str, Callable[[], int]]]:
    """The first run is taken on and its first metrics are accepted; then the connection breaks, for good."""
    with Server(lives=1, forbids=False).serving() as served:
        yield served


class Server:
    """So much of a tracking server that a run starts. lives: how many reports of metrics it takes before it dies."""

    def __init__(self, lives: int, forbids: bool) -> None:
        self.lives, self.forbids, self.asked = lives, forbids, 0

    @contextmanager
    def serving(self) -> Iterator[tuple[str, Callable[[], int]]]:
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                outer.asked += 1
                if outer.forbids:
                    return self.reply(403, {"errors": [{"message": "permission denied"}]})
                if self.path.endswith("file_stream"):
                    outer.lives -= 1
                if outer.lives < 0:
                    return self.connection.close()
                self.reply(200, outer.answer(body) if self.path.endswith("graphql") else {})

            do_PUT = do_GET = do_POST  # noqa: N815

            def reply(self, code: int, data: dict[str, Any]) -> None:
                text = json.dumps(data).encode()
                self.send_response(code)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(text)))
                self.end_headers()
                self.wfile.write(text)

            def log_message(self, *_: object) -> None:
                """The log is the sweep's."""

            def handle(self) -> None:
                with suppress(OSError, ValueError):  # it hung up
                    super().handle()

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield f"http://127.0.0.1:{server.server_port}", lambda: self.asked
        finally:
            server.shutdown()
            server.server_close()

    def answer(self, body: bytes) -> dict[str, Any]:
        query = str(json.loads(body).get("query", ""))
        if "upsertBucket" in query:
            project = {"id": "p", "name": "scope", "entity": {"id": "e", "name": "me"}}
            bucket = {"id": "r", "name": "r", "displayName": "r", "config": "{}", "summaryMetrics": "{}"}
            return {"data": {"upsertBucket": {"bucket": {**bucket, "historyLineCount": 0, "project": project}}}}
        if "viewer" in query:
            return {"data": {"viewer": {"id": "u", "entity": "me", "username": "me", "flags": "{}"}}}
        return {"data": {}}
