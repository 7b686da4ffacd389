"""How long it takes to tell of groups that page at once, over a receiver that takes one message a second.

    .venv/bin/python tests/benchmarks/delivery.py --groups 200 --latency 0.25

The receiver answers others with 429 and Retry-After 1, as Slack does; runs begin every minute, as cron's do.
"""

import argparse
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

sys.path[:0] = [str(Path(__file__).resolve().parents[1]), str(Path(__file__).resolve().parents[2] / "jobs")]

from run import NOW, database  # noqa: E402

from opskpi.alerting.delivery import deliver  # noqa: E402
from support.outboxes import outbox_rows, queue_message  # noqa: E402
from support.postgres import running_server  # noqa: E402

RUN_EVERY_S = 60


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--groups", type=int, default=200, help="groups that page at once (default 200)")
    parser.add_argument("--latency", type=float, default=0.25, help="seconds until the receiver answers (default 0.25)")
    arguments = parser.parse_args()
    taken_at: list[float] = []
    refused: list[float] = []
    lock = threading.Lock()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["content-length"]))
            with lock:
                is_free = not taken_at or time.monotonic() - taken_at[-1] >= 1
                (taken_at if is_free else refused).append(time.monotonic())
            time.sleep(arguments.latency)
            self.send_response(200 if is_free else 429)
            if not is_free:
                self.send_header("Retry-After", "1")
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:
            pass

    receiver = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=receiver.serve_forever, daemon=True).start()
    environ = {"OPS_URL": f"http://127.0.0.1:{receiver.server_port}/"}
    with running_server("18") as server, database(server, "storm") as connection:
        connection.execute(
            "insert into ops.alert_channels (channel_name, kind, secret_env) values ('ops', 'webhook', 'OPS_URL')"
        )
        for number in range(arguments.groups):
            queue_message(connection, group=f"group {number}", at=NOW)
        began, runs = time.monotonic(), 0
        while len(taken_at) < arguments.groups:
            time.sleep(max(0, began + runs * RUN_EVERY_S - time.monotonic()))
            runs += 1
            deliver(connection, environ=environ)
        attempts = {row["attempts"] for row in outbox_rows(connection)}
    seconds = taken_at[-1] - began
    print(
        f"{arguments.groups} groups told after {seconds:.1f} s in {runs} run(s), {len(refused)} put off, attempts {attempts}"
    )


if __name__ == "__main__":
    main()
