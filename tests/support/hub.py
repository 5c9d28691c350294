"""A server that speaks the Hugging Face Hub's protocol, and a second host that keeps the bytes, with faults on demand.

Also a script, for what needs another process: `python hub.py FOLDER --rate 50 --total 300` prints both addresses.
"""

import argparse
import hashlib
import json
import os
import socket
import ssl
import threading
import time
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

ENDLESS = 100_000_000  # bytes of a body without end: no test that fails may fill this machine's disk
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
    token: int = 0  # the status that answers whoever comes with a token
    token_revoked: bool = False  # only whoever asks for bytes: it was good while the file was described
    private: bool = False
    token_needed: bool = False  # 401 for whoever comes without one
    members: bool = False  # a token does not open what is gated
    page: str = ""  # a login page comes in the file's place: "here" with 200, "away" by a redirect to another host
    shifted: int = 0  # bytes by which Content-Range and the bytes begin elsewhere than asked
    packed: str = ""  # the Content-Encoding that nobody asked for
    endless: bool = False  # no length, and after the file more and more
    ends: bool = False  # with `endless`: the connection ends where the file does
    later: bytes = b""  # another version, which replaces the file once `after` bytes of it were sent
    after: int = 0
    no_etag: bool = False
    weak: bool = False  # ETags that If-Range may not use
    careless: bool = False  # If-Range is not looked at


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
        self.listed: list[dict] = []  # entries of listings that no file stands for
        self.listing: tuple[dict, bytes] | None = None  # headers and body in a listing's place
        self.requests: list[tuple[str, str, str, dict]] = []  # host, method, path, lower-case headers
        self.sent = 0  # body bytes of files
        self.lock = threading.Lock()
        self.hashes: dict[tuple[Path, int], str] = {}
        self.servers = []
        self.endpoint = self.listen("hub")
        self.cdn = self.listen("cdn")

    def listen(self, name: str, certificate: Path | None = None) -> str:
        """The address of one more server of these files; of https with a certificate, its key in the same file."""
        server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (Handler,), {"hub": self, "host": name}))
        server.daemon_threads = True
        if certificate:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(certificate)
            server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
        threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
        self.servers.append(server)
        return f"{'https' if certificate else 'http'}://127.0.0.1:{server.server_port}"

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
        fault = self.hub.fault(path)
        if fault.token and "authorization" in headers and not (fault.token_revoked and self.command == "HEAD"):
            return self.reply(fault.token, {"X-Error-Message": "Invalid credentials in Authorization header"})
        if fault.page == "away" and path != "/login":
            return self.reply(302, {"Location": f"{self.hub.cdn}/login?for=toy.safetensors"})
        if fault.page or path == "/login":
            return self.reply(200, {"Content-Type": "text/html; charset=utf-8"}, b"<!doctype html><h1>Welcome</h1>")
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
        if self.hub.listing:
            return self.reply(200, *self.hub.listing)
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
        self.reply(200, {"Content-Type": "application/json"}, json.dumps(entries + self.hub.listed).encode())

    def resolve(self, path: str):
        repo, _, rest = path.lstrip("/").partition("/resolve/")
        name = rest.partition("/")[2]
        file = self.hub.root / repo / name
        fault = self.hub.fault(name)
        if fault.gated and ("Authorization" not in self.headers or fault.members):
            return self.reply(403, {"X-Error-Code": "GatedRepo"})
        if fault.token_needed and "Authorization" not in self.headers:
            return self.reply(401)
        if fault.private:
            return self.reply(404, {"X-Error-Code": "RepoNotFound"})
        if not file.is_file():
            missing = "EntryNotFound" if (self.hub.root / repo).is_dir() else "RepoNotFound"
            return self.reply(404, {"X-Error-Code": missing})
        etag = f'"{self.hub.sha256(file)}"'
        cdn = "http://127.0.0.1:1" if fault.unreachable else self.hub.cdn
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
        with self.hub.lock:
            if fault.later and self.hub.sent >= fault.after:
                fresh = file.with_name("later")
                fresh.write_bytes(fault.later)
                fresh.replace(file)  # what is being sent stays of the old version
                fault.later = b""
            source = open(file, "rb")
            etag = f'{"W/" * fault.weak}"{self.hub.sha256(file)}"'
        with source:
            self.piece(source, etag, fault)

    def piece(self, source, etag: str, fault: Fault):
        size = os.fstat(source.fileno()).st_size
        served = size * 2 // 3 if fault.truncated else size
        start, end = 0, served - 1
        wanted = self.headers.get("Range", "")
        known = self.headers.get("If-Range", etag)
        ranged = wanted.startswith("bytes=") and not fault.no_ranges and (known == etag or fault.careless)
        if ranged:
            first, _, last = wanted.removeprefix("bytes=").partition("-")
            start, end = int(first), min(int(last or end), served - 1)
            if start > end:
                return self.reply(416, {"Content-Range": f"bytes */{served}"})
        if ranged and start < end < served - 1:
            start, end = start + fault.shifted, end + fault.shifted
        self.send_response(206 if ranged else 200)
        if ranged:
            self.send_header("Content-Range", f"bytes {start}-{end}/{served}")
        if not fault.no_etag:
            self.send_header("ETag", etag)
        if fault.packed:
            self.send_header("Content-Encoding", fault.packed)
        if fault.endless:
            self.send_header("Connection", "close")
            self.close_connection = True
        else:
            self.send_header("Content-Length", str(end - start + 1))
        self.end_headers()
        if self.command == "GET":
            self.body(source, start, end + 1, fault, fault.drop_at * size)
            while fault.endless and not fault.ends and self.hub.sent < ENDLESS:
                self.wfile.write(bytes(1 << 16))
                self.hub.sent += 1 << 16

    def body(self, source, start: int, end: int, fault: Fault, drop_at: float):
        begun, sent, step = time.monotonic(), 0, 1 << 18
        self.connection.settimeout(60)
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


class Proxy:
    """A proxy that answers everything with one status. `asked` holds the method and address of each request."""

    def __init__(self, status: int):
        self.asked: list[tuple[str, str]] = []

        class Refuses(BaseHTTPRequestHandler):
            def do_GET(handler):
                self.asked.append((handler.command, handler.path))
                handler.send_response(status)
                handler.send_header("Content-Length", "0")
                handler.end_headers()

            do_HEAD = do_CONNECT = do_GET

            def log_message(self, *args):
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Refuses)
        self.server.daemon_threads = True
        threading.Thread(target=self.server.serve_forever, args=(0.05,), daemon=True).start()
        self.address = f"http://127.0.0.1:{self.server.server_port}"

    def stop(self) -> None:
        self.server.shutdown()
        self.server.server_close()


def certificate(path: Path, days: int = 1) -> Path:
    """A certificate for 127.0.0.1 that signs itself, with its key, at `path`; expired where `days` is negative."""
    import datetime
    import ipaddress

    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key, now = ec.generate_private_key(ec.SECP256R1()), datetime.datetime.now(datetime.timezone.utc)
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "127.0.0.1")])
    made = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=10))
        .not_valid_after(now + datetime.timedelta(days=days))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), True)
        .sign(key, hashes.SHA256())
    )
    text = serialization.Encoding.PEM
    private = key.private_bytes(text, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    path.write_bytes(private + made.public_bytes(text))
    return path


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
