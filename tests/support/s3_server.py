"""A strict S3 server for tests and the demo: it refuses what Cloudflare R2 refuses, and breaks when told to.

Standard library only. Objects are files below a folder, so a 2 GB upload costs no memory. Run it by hand with
`python tests/support/s3_server.py FOLDER [--port N]`.
"""

import argparse
import hashlib
import hmac
import json
import re
import shutil
import socket
import struct
import threading
import time
import uuid
import zlib
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime, timezone
from email.utils import format_datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qsl, quote, unquote, urlsplit
from xml.etree import ElementTree
from xml.sax.saxutils import escape

BLOCK = 64 * 1024
MIB = 1024 * 1024


@dataclass
class Fault:
    """What goes wrong: `action` happens to the next `times` requests whose operation is `operation` (or any)."""

    action: str  # reset, 500, 501, 503, 429, 403, expired, stall, lost-reply
    operation: str = ""  # PutObject, UploadPart, CompleteMultipartUpload, HeadObject …
    times: int = 1
    after_bytes: int = 0  # for reset and stall: how much of the body is read first


@dataclass
class Refusal(Exception):
    status: int
    code: str
    message: str = ""


@dataclass
class StrictS3:
    """The server's state and switches. `with StrictS3(folder).running() as server:` and then `server.endpoint`."""

    folder: Path
    key_id: str = "TESTKEYID"
    secret: str = "test-secret"
    buckets: tuple[str, ...] = ("renders",)
    faults: list[Fault] = field(default_factory=list)
    clock: float = 0.0  # seconds that the server's clock is ahead
    bytes_per_second: float = 0.0  # shared by all connections; 0: unlimited
    conditions: str = "kept"  # If-None-Match and If-Match; or "ignored", or "refused" with 501 as some services do
    etags: str = "md5"  # or "other": they tell nothing about the bytes; or "none", and no lengths either
    may_delete: bool = True
    keep_bodies: bool = True  # off: only size and hash are kept, for big benchmarks
    port: int = 0
    requests: list[tuple[str, str]] = field(default_factory=list)  # (operation, key)
    headers: list[dict] = field(default_factory=list)
    writes: list[str] = field(default_factory=list)  # the key of every object that was stored, in order
    received: int = 0  # bytes of bodies

    def __post_init__(self):
        self.objects: dict[str, dict] = {}
        self.uploads: dict[str, dict] = {}
        self.lock = threading.Lock()
        self.commit = threading.Lock()
        self.clear_to_send = 0.0

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def profile(self) -> dict[str, str]:
        """The environment variables that point the package's `env` profile at this server."""
        return {
            "R2_ENDPOINT": self.endpoint,
            "R2_BUCKET": self.buckets[0],
            "R2_ACCESS_KEY_ID": self.key_id,
            "R2_SECRET_ACCESS_KEY": self.secret,
        }

    def body(self, key: str) -> bytes:
        return Path(self.objects[key]["file"]).read_bytes()

    @contextmanager
    def running(self):
        server = Server(("127.0.0.1", self.port), Handler)
        server.state = self
        self.port = server.server_address[1]
        self.folder.mkdir(parents=True, exist_ok=True)
        thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
        thread.start()
        try:
            yield self
        finally:
            server.shutdown()
            server.server_close()

    def take_fault(self, operation: str) -> Fault | None:
        with self.lock:
            for fault in self.faults:
                if fault.times and fault.operation in ("", operation):
                    fault.times -= 1
                    return fault
        return None

    def wait_for_rate(self, count: int) -> None:
        """Counts `count` bytes, and sleeps so that all connections together stay below the rate."""
        with self.lock:
            self.received += count
        if self.bytes_per_second:
            with self.lock:
                now = time.monotonic()
                self.clear_to_send = max(self.clear_to_send, now) + count / self.bytes_per_second
                pause = self.clear_to_send - now
            time.sleep(pause)


class Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128

    def handle_error(self, request, client_address):
        pass  # clients that hang up are part of the tests


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_PUT(self):
        self.answer()

    do_GET = do_HEAD = do_POST = do_DELETE = do_PUT

    def log_message(self, *_):
        pass

    def date_time_string(self, timestamp=None):
        moment = datetime.fromtimestamp(time.time() + self.server.state.clock, timezone.utc)
        return format_datetime(moment, usegmt=True)

    def handle_expect_100(self):
        return True  # the 100 is sent in read_body, after the request was found acceptable

    def answer(self):
        state, parts = self.server.state, urlsplit(self.path)
        self.query = dict(parse_qsl(parts.query, keep_blank_values=True))
        bucket, _, key = unquote(parts.path.lstrip("/")).partition("/")
        operation = self.operation(key)
        with state.lock:
            state.requests.append((operation, key))
            state.headers.append(dict(self.headers))
        self.unread = int(self.headers.get("Content-Length", 0))
        fault = state.take_fault(operation)
        try:
            if fault:
                self.misbehave(fault)
            self.check_signature(parts)
            self.check_like_r2(key)
            if bucket not in state.buckets:
                raise Refusal(404, "NoSuchBucket", "The specified bucket does not exist. (10006)")
            getattr(self, operation)(key)
            if fault and fault.action == "lost-reply":
                raise ConnectionResetError
        except Refusal as refusal:
            self.close_connection = True
            self.reply(
                refusal.status,
                f"<Error><Code>{refusal.code}</Code><Message>{escape(refusal.message)}</Message></Error>",
            )
        except (TimeoutError, ConnectionError):
            self.hang_up()
        else:
            self.reply(*self.result)

    def operation(self, key: str) -> str:
        multipart = "uploadId" in self.query
        return {
            "PUT": "UploadPart" if multipart else "PutObject",
            "POST": "CompleteMultipartUpload" if multipart else "CreateMultipartUpload",
            "DELETE": "AbortMultipartUpload" if multipart else "DeleteObject",
            "HEAD": "HeadObject",
            "GET": "GetObject" if key else "ListMultipartUploads" if "uploads" in self.query else "ListObjectsV2",
        }[self.command]

    # What a fault does.

    def misbehave(self, fault: Fault) -> None:
        if fault.action == "reset":
            self.read_body(limit=fault.after_bytes)
            raise ConnectionResetError
        if fault.action == "stall":
            self.read_body(limit=fault.after_bytes)
            time.sleep(3600)
        answers = {
            "500": Refusal(500, "InternalError", "We encountered an internal error. Please try again. (10001)"),
            "503": Refusal(503, "SlowDown", "Reduce your request rate. (10001)"),
            "429": Refusal(429, "TooManyRequests", "Reduce your concurrent request rate for the same object. (10058)"),
            "403": Refusal(403, "AccessDenied", "Access Denied (10003)"),
            "501": Refusal(501, "NotImplemented", "This operation is not implemented."),
            "expired": Refusal(400, "ExpiredToken", "The provided token has expired."),
        }
        if fault.action in answers:
            raise answers[fault.action]

    def hang_up(self) -> None:
        """Closes with a reset, as a broken link does."""
        self.close_connection = True
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.connection.close()

    # What R2 refuses.

    def check_signature(self, parts) -> None:
        """AWS Signature Version 4, from the header."""
        state, headers = self.server.state, self.headers
        match = re.match(
            r"AWS4-HMAC-SHA256 Credential=([^/]+)/(\d{8})/([^/]+)/s3/aws4_request, ?SignedHeaders=([^,]+), ?Signature=(\w+)",
            headers.get("Authorization", ""),
        )
        if not match:
            raise Refusal(403, "AccessDenied", "No signature")
        key_id, day, region, signed, signature = match.groups()
        if key_id != state.key_id:
            raise Refusal(401, "Unauthorized", "Unauthorized (10002)")
        sent_at = datetime.strptime(headers["x-amz-date"], "%Y%m%dT%H%M%SZ").replace(tzinfo=timezone.utc)
        if abs(time.time() + state.clock - sent_at.timestamp()) > 900:
            raise Refusal(
                403, "RequestTimeTooSkewed", "The difference between the request time and the server's is too large."
            )
        query = "&".join(
            f"{quote(name, safe='~')}={quote(value, safe='~')}"
            for name, value in sorted(parse_qsl(parts.query, keep_blank_values=True))
        )
        canonical = [self.command, parts.path, query]
        canonical += [f"{name}:{' '.join(headers[name].split())}" for name in signed.split(";")]
        canonical += ["", signed, headers["x-amz-content-sha256"]]
        text = "\n".join(canonical).encode()
        scope = f"{day}/{region}/s3/aws4_request"
        to_sign = f"AWS4-HMAC-SHA256\n{headers['x-amz-date']}\n{scope}\n{hashlib.sha256(text).hexdigest()}"
        secret = f"AWS4{state.secret}".encode()
        for part in (day, region, "s3", "aws4_request", to_sign):
            secret = hmac.new(secret, part.encode(), hashlib.sha256).digest()
        if secret.hex() != signature:
            raise Refusal(403, "SignatureDoesNotMatch", "The request signature we calculated does not match. (10035)")

    def check_like_r2(self, key: str) -> None:
        headers = {name.lower(): value for name, value in self.headers.items()}
        if "STREAMING-" in headers.get("x-amz-content-sha256", "") or "x-amz-trailer" in headers:
            raise Refusal(401, "Unauthorized", "Unauthorized (chunked checksum trailers)")
        if "x-amz-sdk-checksum-algorithm" in headers:  # what the same default becomes without TLS
            raise Refusal(501, "NotImplemented", "Header 'x-amz-sdk-checksum-algorithm' not implemented")
        for name in ("x-amz-tagging", "x-amz-object-lock-mode", "x-amz-expected-bucket-owner", "x-amz-grant-read"):
            if name in headers:
                raise Refusal(501, "NotImplemented", f"Header '{name}' not implemented")
        if headers.get("x-amz-acl", "private") != "private":
            raise Refusal(501, "NotImplemented", "Header 'x-amz-acl' with value other than private not implemented")
        if "kms" in headers.get("x-amz-server-side-encryption", ""):
            raise Refusal(501, "NotImplemented", "SSE-KMS not implemented")
        if len(key.encode()) > 1024:
            raise Refusal(400, "KeyTooLongError", "Your key is too long")
        if sum(len(name) + len(value) for name, value in headers.items() if name.startswith("x-amz-meta-")) > 8192:
            raise Refusal(400, "MetadataTooLarge", "Your metadata headers exceed the maximum allowed metadata size.")

    def condition(self, key: str) -> None:
        there = self.server.state.objects.get(key)
        asked = "If-None-Match" in self.headers or "If-Match" in self.headers
        if asked and self.server.state.conditions == "refused":
            raise Refusal(501, "NotImplemented", "A header you provided implies functionality that is not implemented")
        if self.server.state.conditions != "kept":
            return
        if self.headers.get("If-None-Match") == "*" and there:
            raise Refusal(
                412, "PreconditionFailed", "At least one of the pre-conditions you specified did not hold. (10031)"
            )
        if (wanted := self.headers.get("If-Match")) and (not there or wanted != self.etag(there["etag"])):
            raise Refusal(
                412, "PreconditionFailed", "At least one of the pre-conditions you specified did not hold. (10031)"
            )

    # The operations. Each leaves (status, body, headers) in self.result.

    def PutObject(self, key):
        self.condition(key)
        file, size, md5 = self.store_body()
        with self.server.state.commit:  # of two at once one wins
            self.condition(key)
            self.keep(key, file, size, md5, self.stored_headers())
        self.result = 200, "", {"ETag": self.etag(md5)}

    def CreateMultipartUpload(self, key):
        upload = uuid.uuid4().hex
        with self.server.state.lock:
            self.server.state.uploads[upload] = {"key": key, "parts": {}, "headers": self.stored_headers()}
        self.read_body()
        self.result = (
            200,
            f"<InitiateMultipartUploadResult><UploadId>{upload}</UploadId></InitiateMultipartUploadResult>",
            {},
        )

    def UploadPart(self, key):
        upload = self.upload()
        file, size, md5 = self.store_body()
        with self.server.state.lock:
            upload["parts"][int(self.query["partNumber"])] = (file, size, md5)
        self.result = 200, "", {"ETag": f'"{md5}"'}

    def CompleteMultipartUpload(self, key):
        upload = self.upload()
        wanted = [
            int(tag.text) for tag in ElementTree.fromstring(self.read_body()).iter() if tag.tag.endswith("PartNumber")
        ]
        parts = [upload["parts"][number] for number in wanted]
        sizes = [size for _, size, _ in parts]
        if wanted != sorted(wanted) or len(set(sizes[:-1])) > 1 or sizes[-1] > sizes[0]:
            raise Refusal(400, "InvalidPart", "All non-trailing parts must have the same length. (10048)")
        if any(size < 5 * MIB for size in sizes[:-1]):
            raise Refusal(
                400, "EntityTooSmall", "Your proposed upload is smaller than the minimum allowed object size."
            )
        whole = parts[0][0]
        with whole.open("ab") as target:
            for file, _, _ in parts[1:]:
                with file.open("rb") as source:
                    shutil.copyfileobj(source, target, MIB)
                file.unlink()
        etag = hashlib.md5(b"".join(bytes.fromhex(md5) for _, _, md5 in parts)).hexdigest() + f"-{len(parts)}"
        self.keep(key, whole, sum(sizes), etag, upload["headers"])
        with self.server.state.lock:
            del self.server.state.uploads[self.query["uploadId"]]
        self.result = 200, f"<CompleteMultipartUploadResult><ETag>{etag}</ETag></CompleteMultipartUploadResult>", {}

    def AbortMultipartUpload(self, key):
        upload = self.upload()
        with self.server.state.lock:
            del self.server.state.uploads[self.query["uploadId"]]
        for file, _, _ in upload["parts"].values():
            file.unlink(missing_ok=True)
        self.result = 204, "", {}

    def HeadObject(self, key):
        there = self.object(key)
        self.result = 200, there["size"], {**there["headers"], "ETag": self.etag(there["etag"])}

    def GetObject(self, key):
        there = self.object(key)
        data = there["file"].read_bytes()
        if self.headers.get("Range") == "bytes=0-0":
            data = data[:1]
        self.result = 200, data, {**there["headers"], "ETag": self.etag(there["etag"])}

    def DeleteObject(self, key):
        if not self.server.state.may_delete:
            raise Refusal(403, "AccessDenied", "Access Denied (10003)")
        with self.server.state.lock:
            self.server.state.objects.pop(key, None)
        self.result = 204, "", {}

    def ListObjectsV2(self, _):
        prefix = self.query.get("prefix", "")
        found = "".join(
            f"<Contents><Key>{escape(key)}</Key><Size>{there['size']}</Size><ETag>{there['etag']}</ETag>"
            f"<LastModified>{there['time']}</LastModified></Contents>"
            for key, there in sorted(self.server.state.objects.items())
            if key.startswith(prefix)
        )
        self.result = 200, f"<ListBucketResult><IsTruncated>false</IsTruncated>{found}</ListBucketResult>", {}

    def ListMultipartUploads(self, _):
        found = "".join(
            f"<Upload><Key>{escape(upload['key'])}</Key><UploadId>{name}</UploadId></Upload>"
            for name, upload in self.server.state.uploads.items()
            if upload["key"].startswith(self.query.get("prefix", ""))
        )
        self.result = 200, f"<ListMultipartUploadsResult>{found}</ListMultipartUploadsResult>", {}

    # Reading and writing.

    def upload(self) -> dict:
        upload = self.server.state.uploads.get(self.query["uploadId"])
        if upload is None:
            raise Refusal(404, "NoSuchUpload", "The specified multipart upload does not exist. (10024)")
        return upload

    def object(self, key: str) -> dict:
        there = self.server.state.objects.get(key)
        if there is None:
            raise Refusal(404, "NoSuchKey", "The specified key does not exist. (10007)")
        return there

    def etag(self, md5: str) -> str:
        """As an object's answers have it; a part's ETag stays its MD5, nobody but the server reads it."""
        return f'"{md5}"' if self.server.state.etags == "md5" else f'"0x8D{zlib.crc32(md5.encode()):X}"'

    def stored_headers(self) -> dict:
        return {
            n.lower(): v for n, v in self.headers.items() if n.lower().startswith("x-amz-meta-") or n == "Content-Type"
        }

    def keep(self, key: str, file: Path, size: int, etag: str, headers: dict) -> None:
        moment = datetime.now(timezone.utc).strftime("%Y-%m-%dT%H:%M:%S.000Z")
        with self.server.state.lock:
            self.server.state.writes.append(key)
            self.server.state.objects[key] = {
                "file": file,
                "size": size,
                "etag": etag,
                "headers": headers,
                "time": moment,
            }

    def blocks(self, limit: int | None = None):
        """The body's blocks, at the server's rate; a client that hangs up early is an error."""
        if self.headers.get("Expect", "").lower() == "100-continue" and self.unread:
            self.send_response_only(100)
            self.end_headers()
        left = self.unread if limit is None else min(limit, self.unread)
        while left:
            block = self.rfile.read(min(BLOCK, left))
            if not block:
                raise ConnectionResetError
            self.server.state.wait_for_rate(len(block))
            left -= len(block)
            self.unread -= len(block)
            yield block

    def read_body(self, limit: int | None = None) -> bytes:
        return b"".join(self.blocks(limit))

    def store_body(self) -> tuple[Path, int, str]:
        """The body in a file of its own, its size in bytes and its MD5."""
        md5, sha256, size = hashlib.md5(), hashlib.sha256(), 0
        declared = self.headers["x-amz-content-sha256"]
        path = self.server.state.folder / uuid.uuid4().hex
        try:
            with path.open("wb") as file:
                for block in self.blocks():
                    md5.update(block)
                    size += len(block)
                    if declared != "UNSIGNED-PAYLOAD":
                        sha256.update(block)
                    if self.server.state.keep_bodies:
                        file.write(block)
        except OSError:
            path.unlink(missing_ok=True)
            raise
        if declared not in ("UNSIGNED-PAYLOAD", sha256.hexdigest()):
            raise Refusal(400, "XAmzContentSHA256Mismatch", "The provided hash does not match the content.")
        return path, size, md5.hexdigest()

    def reply(self, status: int, body: str | bytes | int, headers: dict | None = None) -> None:
        """Sends the answer; an int body is the length that a HEAD announces."""
        tells_little = self.server.state.etags == "none" and "ETag" in (headers or {})
        data = b"" if isinstance(body, int) else body.encode() if isinstance(body, str) else body
        try:
            self.send_response(status)
            for name, value in (headers or {}).items():
                if name != "ETag" or not tells_little:
                    self.send_header(name, value)
            if self.close_connection:
                self.send_header("Connection", "close")
            if status != 204 and not (tells_little and self.command == "HEAD"):
                self.send_header("Content-Length", str(body if isinstance(body, int) else len(data)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(data)
        except OSError:
            self.close_connection = True


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--rate", type=float, default=0, help="bytes a second, over all connections")
    parser.add_argument("--discard", action="store_true", help="keep sizes and hashes only")
    args = parser.parse_args()
    server = StrictS3(args.folder, bytes_per_second=args.rate, port=args.port, keep_bodies=not args.discard)
    with server.running():
        print(json.dumps(server.profile), flush=True)
        threading.Event().wait()


if __name__ == "__main__":
    main()
