"""A real S3 server on this machine, and a web server in front of it that spoils answers on demand."""

import http.client
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

SERVER = """
import sys
from moto.server import ThreadedMotoServer

server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
server.start()
print(server.get_host_and_port()[1], flush=True)
sys.stdin.read()
"""

CREDENTIALS = {
    "AWS_ACCESS_KEY_ID": "testing",
    "AWS_SECRET_ACCESS_KEY": "not-a-real-secret",
    "AWS_DEFAULT_REGION": "us-east-1",
    "AWS_EC2_METADATA_DISABLED": "true",
}


def storage_of(address: str, **client: Any) -> dict[str, Any]:
    """Options of s3fs for a server at host:port. botocore does not retry, so that each fault is met by the caller."""
    return {
        "endpoint_url": f"http://{address}",
        "client_kwargs": {"region_name": "us-east-1"},
        "config_kwargs": {"retries": {"total_max_attempts": 1}, "s3": {"addressing_style": "path"}, **client},
        "use_listings_cache": False,
    }


@contextmanager
def s3_server() -> Iterator[str]:
    """A moto server in a process of its own, as host:port. It ends with its standard input, so also when we do."""
    with subprocess.Popen(
        [sys.executable, "-P", "-c", SERVER],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,  # a line for every request
        text=True,
    ) as process:
        assert process.stdin is not None and process.stdout is not None
        try:
            yield f"127.0.0.1:{int(process.stdout.readline())}"
        finally:
            process.stdin.close()
            process.wait()


def put(address: str, method_path: str, body: bytes = b"") -> None:
    """Stores an object, or makes a bucket."""
    connection = http.client.HTTPConnection(address)
    connection.request("PUT", method_path, body, {"Authorization": "AWS testing:unchecked"})
    answer = connection.getresponse()
    assert answer.status == 200, answer.read()
    connection.close()


def put_folder(address: str, bucket: str, prefix: str, folder: Path) -> str:
    """Stores the files of `folder` and gives its URL."""
    put(address, f"/{bucket}")
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            put(address, f"/{bucket}/{prefix}/{path.relative_to(folder).as_posix()}", path.read_bytes())
    return f"s3://{bucket}/{prefix}"


@dataclass
class Fault:
    """What is done to the answers for paths that contain `match`, `times` times, from the request `after` on.

    `kind` is "status" (answers `status`), "cut" (the connection ends in the middle of the body), "corrupt" (one byte
    differs), "slow" (the body comes in four parts, `seconds` apart) or "stall" (it stops in its middle for good).
    """

    kind: str
    match: str
    times: float = 1
    status: int = 500
    seconds: float = 0.1
    after: int = 0


ERROR_CODES = {403: "AccessDenied", 500: "InternalError", 503: "ServiceUnavailable"}


@dataclass
class Proxy:
    """Passes requests on to `upstream`, counts them by path, and spoils answers by the first fault that matches."""

    upstream: str
    faults: list[Fault] = field(default_factory=list)
    requests: Counter[str] = field(default_factory=Counter)
    bytes: Counter[str] = field(default_factory=Counter)
    order: list[str] = field(default_factory=list)
    address: str = ""

    def __post_init__(self) -> None:
        self._lock, self._ended = threading.Lock(), threading.Event()

    def requests_of(self, name: str) -> int:
        return sum(count for path, count in self.requests.items() if path.endswith(name))

    def take_fault(self, path: str) -> Fault | None:
        with self._lock:
            self.requests[path] += 1
            self.order.append(path)
            for fault in self.faults:
                if fault.match in path and fault.times > 0 and self.requests[path] > fault.after:
                    fault.times -= 1
                    return fault
        return None

    def count(self, path: str, size: int) -> None:
        with self._lock:
            self.bytes[path] += size

    def stall(self) -> None:
        self._ended.wait()

    def end(self) -> None:
        """Lets go of all answers that stall."""
        self._ended.set()

    def forget(self) -> None:
        """Starts anew, with no faults and nothing counted."""
        for each in (self.faults, self.requests, self.bytes, self.order):
            each.clear()


def _handler(proxy: Proxy) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_: Any) -> None:
            pass

        def do_HEAD(self) -> None:
            self._pass_on()

        def do_GET(self) -> None:
            self._pass_on()

        def _pass_on(self) -> None:
            fault = proxy.take_fault(self.path)
            if fault and fault.kind == "status":
                code = ERROR_CODES[fault.status]
                body = f"<Error><Code>{code}</Code><Message>made up</Message></Error>".encode()
                self._head(fault.status, {"Content-Type": "application/xml"}, len(body))
                self._send(body)
                return
            connection = http.client.HTTPConnection(proxy.upstream)
            connection.request(self.command, self.path, headers=dict(self.headers))
            answer = connection.getresponse()
            body = answer.read()
            connection.close()
            length = int(answer.headers.get("Content-Length", len(body)))
            self._head(answer.status, dict(answer.headers), length)
            self._body(body, fault)

        def _head(self, status: int, headers: dict[str, str], length: int) -> None:
            self.send_response_only(status)
            for key, value in headers.items():
                if key.lower() not in ("content-length", "transfer-encoding", "connection"):
                    self.send_header(key, value)
            self.send_header("Content-Length", str(length))
            self.end_headers()

        def _body(self, body: bytes, fault: Fault | None) -> None:
            half = len(body) // 2
            if fault is None:
                self._send(body)
            elif fault.kind == "corrupt":
                self._send(body[:half] + bytes([body[half] ^ 1]) + body[half + 1 :])
            elif fault.kind == "slow":
                for at in range(4):
                    self._send(body[at * len(body) // 4 : (at + 1) * len(body) // 4])
                    time.sleep(fault.seconds)
            else:
                self._send(body[:half])
                if fault.kind == "stall":
                    proxy.stall()
                self.close_connection = True

        def _send(self, data: bytes) -> None:
            if self.command != "HEAD":
                proxy.count(self.path, len(data))
                self.wfile.write(data)

    return Handler


def wait_for(condition: Callable[[], Any]) -> None:
    """Until `condition` holds; what a test waits for is what the code under test does next."""
    while not condition():
        time.sleep(0.005)


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, *_: Any) -> None:
        """A client that went away is part of these tests."""


@contextmanager
def proxy_for(upstream: str) -> Iterator[Proxy]:
    """A proxy in threads of this process."""
    proxy = Proxy(upstream)
    server = _Server(("127.0.0.1", 0), _handler(proxy))
    proxy.address = f"127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield proxy
    finally:
        proxy.end()
        server.shutdown()
        thread.join()
        server.server_close()
