"""`cli.py queue` before servers that are not ComfyUI, or not ComfyUI alone: logins, proxies, and whatever else answers."""

import base64
import json
import socket
import threading
from pathlib import Path

import pytest
from steadydancer import cli
from steadydancer.commands import prompt as api_prompt
from steadydancer.commands import queue
from steadydancer.commands.server import Server, is_this_machine

PROMPT = {"1": {"class_type": "EmptyImage", "inputs": {"width": 64}, "_meta": {"title": "Blank"}}}


def answer(status="200 OK", body=b"", *headers: str) -> bytes:
    lines = [f"HTTP/1.1 {status}", f"Content-Length: {len(body)}", "Connection: close", *headers, "", ""]
    return "\r\n".join(lines).encode() + body


def said(value, status="200 OK") -> bytes:
    return answer(status, json.dumps(value).encode(), "Content-Type: application/json")


class Answering:
    """A server that answers a request with raw bytes: `reply(path)`; "" to close. It keeps each request's head."""

    def __init__(self, reply):
        self.reply, self.heads = reply, []
        self.socket = socket.create_server(("127.0.0.1", 0))
        self.at = f"127.0.0.1:{self.socket.getsockname()[1]}"
        threading.Thread(target=self.serve, daemon=True).start()

    def serve(self):
        while True:
            try:
                connection, _ = self.socket.accept()
            except OSError:
                return
            with connection:
                connection.settimeout(10)
                data = b""
                while b"\r\n\r\n" not in data:
                    more = connection.recv(65536)
                    if not more:
                        break
                    data += more
                head, _, body = data.partition(b"\r\n\r\n")
                lines = head.decode("latin-1").split("\r\n")
                headers = {name.title(): value for name, _, value in (line.partition(": ") for line in lines[1:])}
                missing = int(headers.get("Content-Length", 0)) - len(body)
                while missing > 0:
                    missing -= len(connection.recv(missing))
                path = lines[0].split(" ")[1] if lines[0].count(" ") > 1 else ""
                self.heads.append((path, headers))
                connection.sendall(self.reply(path))


@pytest.fixture
def serving():
    servers = []

    def start(reply):
        servers.append(Answering(reply if callable(reply) else lambda path: reply))
        return servers[-1]

    yield start
    for server in servers:
        server.socket.close()


class ComfyUI:
    """What ComfyUI answers to a prompt that has run at once."""

    def __init__(self, outputs=None, argv=(), **status):
        self.outputs, self.argv, self.status, self.id = outputs or {}, list(argv), status, None
        self.odd = {}  # path's beginning → another answer

    def __call__(self, path: str) -> bytes:
        path = "/" + path.partition("://")[2].partition("/")[2] if "://" in path else path  # as a proxy is asked
        for beginning, reply in self.odd.items():
            if path.startswith(beginning):
                return reply
        path = path.partition("?")[0]
        if path == "/prompt":
            return said({"prompt_id": "taken", "number": 1, "node_errors": {}})
        if path == "/queue":
            return said({"queue_running": [], "queue_pending": []})
        if path == "/system_stats":
            return said({"system": {"argv": self.argv}})
        if path.startswith("/history/"):
            status = {"status_str": "success", "messages": []} | self.status
            return said({path.rpartition("/")[2]: {"status": status, "outputs": self.outputs}})
        return answer("404 Not Found")


@pytest.fixture
def ask(tmp_path, capsys, monkeypatch):
    """Runs `queue` and returns exit code, stdout, stderr. Waits are short."""
    monkeypatch.setattr(queue, "POLL_SECONDS", 0.02)
    monkeypatch.setattr(queue, "PATIENCE_SECONDS", 0.2)
    file = tmp_path / "prompt.json"
    file.write_text(json.dumps(PROMPT), encoding="utf-8")

    def ask(server, *arguments, file=file):
        code = cli.main(["queue", str(file), "--server", server, *arguments])
        out, err = capsys.readouterr()
        assert "Traceback" not in err and "Errno" not in err
        assert code == 0 or err.rstrip().endswith(".")
        return code, out, err

    return ask


@pytest.mark.parametrize(
    ("name", "reply", "words"),
    [
        ("web page", answer(body=b"<!doctype html><title>Log in</title>"), "it sends a web page"),
        ("json list", said([1]), "it sends something else"),
        ("not json", answer(body=b"hello"), "it sends something else"),
        ("deep json", answer(body=b"[" * 100_000), "it sends something else"),
        ("400 deep json", answer("400 Bad Request", b"[" * 100_000), "it sends something else"),
        ("without an end", answer(body=b" " * (1 << 20)), "it sends something else"),
        ("empty object", said({}), "whether it took the prompt"),
        ("nothing", b"", "closed the connection without a word"),
        ("half", answer(body=b"{}")[:-1], "closed the connection in the middle"),
        ("ssh", b"SSH-2.0-OpenSSH_9.6\r\n", "does not speak HTTP"),
        ("401", answer("401 Unauthorized"), "refused with 401 (Unauthorized). Give a login"),
        ("403", answer("403 Forbidden", b"<html>"), "refused with 403 (Forbidden). Give a login"),
        ("404", answer("404 Not Found"), "not at this address"),
        ("407", answer("407 Proxy Authentication Required"), "the proxy's word"),
        ("413", answer("413 Payload Too Large"), "raise its limit"),
        ("418", answer("418 "), "refused with 418"),
        ("500", answer("500 Internal Server Error"), "ComfyUI's own log"),
        ("502", answer("502 Bad Gateway", b"<html>"), "start ComfyUI"),
        ("503", answer("503 Service Unavailable"), "start ComfyUI"),
        ("504", answer("504 Gateway Time-out"), "start ComfyUI"),
        ("400 page", answer("400 Bad Request", b"<html>plain HTTP sent to HTTPS port"), "it sends a web page"),
        ("400 json", said({"detail": "no"}, "400 Bad Request"), "whether it took the prompt"),
        (
            "login",
            answer("302 Found", b"", "Location: https://login.example/in?token=abc"),
            "https://login.example/in.",
        ),
        ("https", answer("308 Permanent Redirect", b"", "Location: https://comfy.example/"), "https://comfy.example/"),
        ("elsewhere", answer("301 Moved", b"", "Location: /login"), "sends us on to /login"),
    ],
)
def test_an_odd_server_is_one_sentence(serving, ask, monkeypatch, name, reply, words):
    monkeypatch.setattr("steadydancer.commands.server.LARGEST", 1 << 19)  # of a real one, 256 MB
    server = serving(reply)
    code, out, err = ask(f"http://{server.at}")
    assert (code, out) == (1, "")
    assert words in err and f"http://{server.at}" in err and err.count("\n") == 1
    assert "token=abc" not in err
    assert all(path.startswith(("/ws", "/prompt")) for path, _ in server.heads), "nobody followed the redirect"


@pytest.mark.parametrize(
    ("beginning", "reply"),
    [
        ("/queue", answer(body=b"<html>")),
        ("/queue", said({"running": []})),
        ("/history", answer("502 Bad Gateway")),
        ("/history", answer(body=b'{"a"')),
        ("/history", b""),
    ],
)
def test_a_server_that_gets_odd_during_the_run(serving, ask, beginning, reply):
    fake = ComfyUI()
    fake.odd[beginning] = reply
    code, out, err = ask(serving(fake).at)
    assert (code, out) == (1, "")
    assert "If it still runs, the run goes on there" in err


@pytest.mark.parametrize("record", [{"outputs": []}, {"status": {}}, {"status": None, "outputs": {}}, "text"])
def test_an_odd_record_of_the_run(serving, ask, record):
    fake = ComfyUI()

    def reply(path):
        return said({path.rpartition("/")[2]: record}) if path.startswith("/history") else fake(path)

    code, out, err = ask(serving(reply).at)
    assert (code, out) == (1, "")
    assert "its record of the run cannot be read" in err


def test_an_error_without_words_is_a_sentence(serving, ask):
    fake, error = ComfyUI(), {"node_id": "1", "node_type": "X", "exception_message": ""}
    record = {"status": {"status_str": "error", "messages": [["execution_error", error]]}, "outputs": {}}

    def reply(path):
        return said({path.rpartition("/")[2]: record}) if path.startswith("/history") else fake(path)

    code, out, err = ask(serving(reply).at)
    assert (code, out) == (1, "") and "it failed without a word" in err


@pytest.mark.parametrize(
    "message", ["", "no json", "[1]", "[" * 30_000, '{"type": 5}', '{"type": "progress_state", "data": {"nodes": 7}}']
)
def test_an_odd_or_closed_websocket_is_done_without(serving, ask, message):
    """It accepts, says one thing and hangs up."""
    import hashlib

    fake = ComfyUI({"1": {"images": [{"filename": "a.png", "type": "output"}]}})
    server = serving(lambda path: b"")

    def reply(path):
        if not path.startswith("/ws"):
            return fake(path)
        key = server.heads[-1][1]["Sec-Websocket-Key"] + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
        accept = base64.b64encode(hashlib.sha1(key.encode()).digest()).decode()
        head = f"HTTP/1.1 101 Switching\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: {accept}\r\n\r\n"
        size = bytes([len(message)]) if len(message) < 126 else b"\x7e" + len(message).to_bytes(2, "big")
        return head.encode() + (b"\x81" + size + message.encode() if message else b"")

    server.reply = reply
    code, out, err = ask(server.at)
    assert (code, Path(out.strip()), err) == (0, Path("output/a.png"), "")


@pytest.mark.parametrize(
    ("address", "login"),
    [
        ("http://user:secretpw@{}", "user:secretpw"),
        ("me%40site:p%2Fw%3A%23@{}/", "me@site:p/w:#"),
        ("http://:secretpw@{}", ":secretpw"),
        ("http://only@{}", "only:"),
    ],
)
def test_a_login_is_sent_and_never_shown(serving, ask, address, login):
    fake = ComfyUI()
    server = serving(fake)
    code, out, err = ask(address.format(server.at))
    assert (code, out + err) == (0, "")
    wanted = "Basic " + base64.b64encode(login.encode()).decode()
    assert len(server.heads) >= 4 and {headers["Authorization"] for _, headers in server.heads} == {wanted}
    server.reply = lambda path: answer("401 Unauthorized")
    code, out, err = ask(address.format(server.at))
    assert code == 1 and "secretpw" not in err and "p%2Fw" not in err and "@" not in err.partition(".")[0]


@pytest.mark.parametrize(
    "address",
    [
        "http://user:sec/ret@127.0.0.1:1",
        "http://user:12/34secret@127.0.0.1:1",
        "http://user:12#secret@127.0.0.1:1",
        "http://user:se?cret@127.0.0.1:1",
        "http://user:p@x/secret@127.0.0.1:1",
        "http://user:secret@127.0.0.1:80000",
        "ftp://user:secret@127.0.0.1",
        "file:///etc/secret",
        "http://user:secret@",
        "",
    ],
)
def test_an_address_that_cannot_be_is_not_repeated(ask, address):
    code, out, err = ask(address)
    assert (code, out) == (2, "")
    assert "write the address as http://HOST:PORT" in err
    assert "secret" not in err and "ret@" not in err and "user:1" not in err


def test_headers_go_with_every_question(serving, ask):
    server = serving(ComfyUI())
    code, _, err = ask(f"http://{server.at}", "--header", "CF-Access-Client-Id: abc", "--header", "user-agent: Mine")
    assert (code, err) == (0, "")
    assert {headers["Cf-Access-Client-Id"] for _, headers in server.heads} == {"abc"}
    assert {headers["User-Agent"] for _, headers in server.heads} == {"Mine"}
    for header in ("Authorization", "Bad name: x", "X: secret\nY: z", "X: \u2603secret"):
        code, _, err = ask(server.at, "--header", header)
        assert code == 2 and "--header" in err and "secret" not in err


def test_it_does_not_go_by_urllibs_name_and_keeps_the_query(serving, ask):
    server = serving(ComfyUI())
    code, _, _ = ask(f"http://{server.at}/?token=abc#part")
    assert code == 0
    for path, headers in server.heads:
        assert headers["User-Agent"] == "SteadyDancer"
        assert path.endswith(("?token=abc", "&token=abc"))
    assert "token=abc" not in Server(f"{server.at}/?token=abc").address


def test_no_proxy_stands_before_this_machine(serving, ask, monkeypatch):
    proxy, fake = serving(answer("502 Bad Gateway")), serving(ComfyUI())
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy"):
        monkeypatch.setenv(name, f"http://{proxy.at}")
    monkeypatch.delenv("no_proxy", raising=False)
    assert ask(fake.at) == (0, "", "")
    assert ask(fake.at.replace("127.0.0.1", "localhost"))[0] == 0
    assert proxy.heads == []


def test_another_machine_is_reached_through_the_proxy(serving, ask, monkeypatch):
    proxy = serving(ComfyUI())
    monkeypatch.setenv("http_proxy", f"http://{proxy.at}")
    monkeypatch.delenv("no_proxy", raising=False)
    assert ask("http://comfy.test:8188")[0] == 0
    assert "http://comfy.test:8188/prompt" in [path for path, _ in proxy.heads]
    monkeypatch.setenv("http_proxy", "http://user:secret@127.0.0.1:9")
    code, _, err = ask("http://comfy.test:8188")
    assert code == 1 and "through the proxy 127.0.0.1: nothing listens there" in err and "secret" not in err


@pytest.mark.parametrize("proxy", ["socks5://user:secret@127.0.0.1:1080", "http://[secret", "http://"])
def test_a_proxy_of_another_kind_is_told(ask, monkeypatch, proxy):
    monkeypatch.setenv("http_proxy", proxy)
    monkeypatch.delenv("no_proxy", raising=False)
    code, out, err = ask("comfy.test:8188")
    assert (code, out) == (2, "") and "cannot use" in err and "secret" not in err
    monkeypatch.setenv("no_proxy", "comfy.test")
    assert Server("comfy.test:8188").proxy is None


@pytest.mark.parametrize(
    ("host", "is_it"),
    [
        ("127.0.0.1", True),
        ("127.9.9.9", True),
        ("0.0.0.0", True),
        ("::1", True),
        ("::ffff:127.0.0.1", True),
        ("localhost", True),
        ("LOCALHOST.".lower(), True),
        ("comfy.localhost", True),
        ("10.0.0.1", False),
        ("localhost.example", False),
        ("notlocalhost", False),
    ],
)
def test_this_machine(host, is_it):
    assert is_this_machine(host) == is_it


@pytest.mark.parametrize(
    ("given", "address"),
    [
        ("127.0.0.1:8188", "http://127.0.0.1:8188"),
        ("localhost:8188/", "http://localhost:8188"),
        ("HTTP://Pod.Example:1/comfy/", "http://pod.example:1/comfy"),
        ("[::1]:8188", "http://[::1]:8188"),
        ("https://pod-8188.proxy.example", "https://pod-8188.proxy.example"),
        (" http://bücher.example ", "http://xn--bcher-kva.example"),
    ],
)
def test_addresses_as_people_write_them(given, address):
    assert Server(given).address == address


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32"])
def test_json_as_windows_writes_it(tmp_path, encoding):
    file = tmp_path / "prompt.json"
    text = json.dumps(
        PROMPT | {"2": {"class_type": "Text", "inputs": {"text": "Tänzerin"}}}, indent=1, ensure_ascii=False
    )
    file.write_bytes(text.replace("\n", "\r\n").encode(encoding))
    assert api_prompt.read_prompt(file)["2"]["inputs"]["text"] == "Tänzerin"


@pytest.mark.parametrize(
    ("data", "words"),
    [
        ('{"1": "Tänzerin"}'.encode("cp1252"), "not text in UTF-8"),
        (b"", "is not JSON"),
        (b"[" * 100_000, "is not JSON"),
        (b'{"1": {"class_type": "A", "inputs": {}}}\0', "is not JSON"),
    ],
)
def test_a_file_that_is_no_json_is_a_sentence(ask, tmp_path, data, words):
    file = tmp_path / "bad.json"
    file.write_bytes(data)
    code, out, err = ask("127.0.0.1:9", file=file)
    assert (code, out) == (2, "") and words in err


NAMES = ["a\nb.png", "a\r\nb.png", "a\x1b[2Jb.png", "a\u2028b.png", "a\x85b.png", "a\udcffb.png", "a\tb.png", "x" * 300]


@pytest.mark.parametrize("name", NAMES, ids=ascii)
def test_a_result_is_one_line_whatever_its_name(serving, ask, name):
    outputs = {"9": {"images": [{"filename": name, "type": "output", "subfolder": "s"}]}}
    outputs["10.0.1"] = {"text": ["two\nlines \x1b[31m"], "images": [{"filename": "next.png"}]}
    code, out, err = ask(serving(ComfyUI(outputs)).at)
    assert code == 0
    first, second = out.splitlines()
    assert second == str(Path("output", "next.png")) and first.startswith(str(Path("output", "s")))
    assert (name in first) == (name == "x" * 300)
    out.encode()
    assert "\x1b" not in out + err
    assert "10.0.1: two\nlines" in err, "a node that the prompt does not name is one that another made"
    assert ("signs that no line can hold" in err) == (name != "x" * 300)


def test_a_result_is_told_with_its_whole_path(serving, ask, tmp_path):
    (tmp_path / "output").mkdir()
    fake = ComfyUI({"1": {"images": [{"filename": "a.png", "type": "output"}]}}, [str(tmp_path / "main.py")])
    assert ask(serving(fake).at) == (0, f"{tmp_path / 'output' / 'a.png'}\n", "")
    for argv in ({}, [], [7], None):
        fake.odd["/system_stats"] = said({"system": {"argv": argv}})
        assert ask(serving(fake).at) == (0, f"{Path('output', 'a.png')}\n", "")
