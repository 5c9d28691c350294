"""A server that speaks the Hugging Face Hub's protocol, and a second host that keeps the bytes, with faults on demand.

Also a script, for what needs another process: `python hub.py FOLDER --rate 50 --total 300` prints both addresses.
"""

import argparse
import hashlib
import json
import socket
import threading
import time
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@dataclass
class Fault:
    """What goes wrong with a file."""

    statuses: tuple[int, ...] = ()  # answered by the second host one after the other before the file is served
    retry_after: str = ""
    drop_at: float = 1.0  # share of the file past which connections break, `times` times
    times: int = 0
    truncated: bool = False  # the second host's copy ends early
    wrong: bool = False  # the second host's copy has other bytes
    gated: bool = False
    no_ranges: bool = False
    unreachable: bool = False  # the second host does not listen
    stall: float = 0.0  # seconds of silence before each block


class Hub:
    """Serves `root`/owner/name/…: `endpoint` is for HF_ENDPOINT, `cdn` is where its redirects lead.

    `rate` and `total` are bytes a second, of a connection and of all; 0 is no limit.
    """

    def __init__(self, root: Path, rate: float = 0.0, total: float = 0.0):
        self.root = Path(root)
        self.rate = rate
        self.total = total
        self.free_at = 0.0  # when the next byte of `total` may leave
        self.faults: dict[str, Fault] = {}
        self.requests: list[tuple[str, str, str, dict]] = []  # host, method, path, lower-case headers
        self.sent = 0  # body bytes of files
        self.lock = threading.Lock()
        self.hashes: dict[tuple[Path, int], str] = {}
        self.servers = []
        self.endpoint = self.listen("hub")
        self.cdn = self.listen("cdn")

    def listen(self, name: str) -> str:
        server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (Handler,), {"hub": self, "host": name}))
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
        self.servers.append(server)
        return f"http://127.0.0.1:{server.server_port}"

    def stop(self) -> None:
        for server in self.servers:
            server.shutdown()
            server.server_close()

    def put(self, repo: str, path: str, data: bytes) -> str:
        """Publishes a file; returns its sha256."""
        file = self.root / repo / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(data)
        return hashlib.sha256(data).hexdigest()

    def sha256(self, path: Path) -> str:
        key = (path, path.stat().st_mtime_ns)
        if key not in self.hashes:
            with open(path, "rb") as file:
                digest = hashlib.sha256()
                while block := file.read(1 << 22):
                    digest.update(block)
            self.hashes[key] = digest.hexdigest()
        return self.hashes[key]

    def fault(self, path: str) -> Fault:
        return next((fault for name, fault in self.faults.items() if path.endswith(name)), Fault())

    def asked(self, host: str) -> list[tuple[str, str, str, dict]]:
        return [request for request in self.requests if request[0] == host]

    def pace(self, count: int, sent: int, begun: float) -> None:
        """Sleeps until `count` further bytes are allowed, `sent` of this connection's having begun at `begun`."""
        until = begun + sent / self.rate if self.rate else 0.0
        if self.total:
            with self.lock:
                self.free_at = max(self.free_at, time.monotonic()) + count / self.total
                until = max(until, self.free_at)
        time.sleep(max(0.0, until - time.monotonic()))


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    hub: Hub
    host: str

    def log_message(self, *args):
        pass

    def do_HEAD(self):
        self.answer()

    def do_GET(self):
        self.answer()

    def answer(self):
        headers = {name.lower(): value for name, value in self.headers.items()}
        self.hub.requests.append((self.host, self.command, self.path, headers))
        path = unquote(urlsplit(self.path).path)
        if self.host == "cdn":
            self.blob(path.removeprefix("/blob/"))
        elif path.startswith("/api/models/"):
            self.tree(path)
        elif "/resolve/" in path:
            self.resolve(path)
        else:
            self.blob(path.lstrip("/"))  # a plain URL

    def reply(self, status: int, headers: dict | None = None, body: bytes = b""):
        self.send_response(status)
        for name, value in {**(headers or {}), "Content-Length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def tree(self, path: str):
        root = self.hub.root / path.removeprefix("/api/models/").split("/tree/")[0]
        if not root.is_dir():
            return self.reply(404, {"X-Error-Code": "RepoNotFound"})
        entries = []
        for file in sorted(root.rglob("*")):
            if file.is_file():
                size = file.stat().st_size
                lfs = {"oid": self.hub.sha256(file), "size": size, "pointerSize": 134}
                name = file.relative_to(root).as_posix()
                entries.append({"type": "file", "path": name, "size": size, "oid": "a" * 40, "lfs": lfs})
        self.reply(200, {"Content-Type": "application/json"}, json.dumps(entries).encode())

    def resolve(self, path: str):
        repo, _, rest = path.lstrip("/").partition("/resolve/")
        name = rest.partition("/")[2]
        file = self.hub.root / repo / name
        if self.hub.fault(name).gated and "Authorization" not in self.headers:
            return self.reply(403, {"X-Error-Code": "GatedRepo"})
        if not file.is_file():
            missing = "EntryNotFound" if (self.hub.root / repo).is_dir() else "RepoNotFound"
            return self.reply(404, {"X-Error-Code": missing})
        etag = f'"{self.hub.sha256(file)}"'
        cdn = "http://127.0.0.1:1" if self.hub.fault(name).unreachable else self.hub.cdn
        headers = {
            "X-Repo-Commit": COMMIT,
            "X-Linked-Size": str(file.stat().st_size),
            "X-Linked-Etag": etag,
            "ETag": etag,
            "Location": f"{cdn}/blob/{repo}/{name}?Signature=abc",
        }
        self.reply(302, headers)

    def blob(self, name: str):
        file = self.hub.root / name
        if not file.is_file():
            return self.reply(404)
        fault = self.hub.fault(name)
        with self.hub.lock:
            status, fault.statuses = (fault.statuses or (0,))[0], fault.statuses[1:]
        if status:
            return self.reply(status, {"Retry-After": fault.retry_after} if fault.retry_after else {})
        size = file.stat().st_size
        served = size * 2 // 3 if fault.truncated else size
        start, end = 0, served - 1
        wanted = self.headers.get("Range", "")
        ranged = wanted.startswith("bytes=") and not fault.no_ranges
        if ranged:
            first, _, last = wanted.removeprefix("bytes=").partition("-")
            start, end = int(first), min(int(last or end), served - 1)
            if start > end:
                return self.reply(416, {"Content-Range": f"bytes */{served}"})
        self.send_response(206 if ranged else 200)
        if ranged:
            self.send_header("Content-Range", f"bytes {start}-{end}/{served}")
        self.send_header("ETag", f'"{self.hub.sha256(file)}"')
        self.send_header("Content-Length", str(end - start + 1))
        self.end_headers()
        if self.command == "GET":
            self.body(file, start, end + 1, fault, fault.drop_at * size)

    def body(self, file: Path, start: int, end: int, fault: Fault, drop_at: float):
        begun, sent, step = time.monotonic(), 0, 1 << 18
        self.connection.settimeout(60)
        with open(file, "rb") as source:
            while start < end:
                time.sleep(fault.stall)
                count = min(step, end - start)
                with self.hub.lock:
                    dropping = fault.times > 0 and start + count > drop_at
                    fault.times -= dropping
                if dropping:
                    self.connection.shutdown(socket.SHUT_RDWR)
                    self.close_connection = True
                    return
                if fault.wrong:
                    source.seek(start)
                    self.wfile.write(bytes(255 - value for value in source.read(count)))
                else:
                    self.connection.sendfile(source, start, count)
                start, sent = start + count, sent + count
                with self.hub.lock:
                    self.hub.sent += count
                self.hub.pace(count, sent, begun)

    def handle_one_request(self):
        try:
            super().handle_one_request()
        except (ConnectionError, TimeoutError):
            self.close_connection = True


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--rate", type=float, default=0.0, help="MB/s a connection")
    parser.add_argument("--total", type=float, default=0.0, help="MB/s in all")
    args = parser.parse_args()
    hub = Hub(args.folder, args.rate * 1e6, args.total * 1e6)
    print(hub.endpoint, hub.cdn, flush=True)
    threading.Event().wait()


if __name__ == "__main__":
    main()
