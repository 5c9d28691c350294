"""`cli.py queue` as a script on a pod runs it: a process, its two output streams and its exit code."""

import http.server
import json
import os
import signal
import subprocess
import sys
import threading
import time
import urllib.request
from pathlib import Path
from types import SimpleNamespace

import pytest
from support import ROOT


def prompt(**changes) -> dict:
    """A blank image that is saved. `changes` are "node_input" values."""
    graph = {
        "1": {
            "class_type": "EmptyImage",
            "inputs": {"width": 64, "height": 32, "batch_size": 1, "color": 255},
            "_meta": {"title": "Blank"},
        },
        "2": {"class_type": "SlowImage", "inputs": {"image": ["1", 0], "seconds": 0.3}, "_meta": {"title": "Wait"}},
        "3": {
            "class_type": "SteadyDancerFitImage",
            "inputs": {"image": ["2", 0], "area": "custom", "width": 64, "height": 32, "fit": "off"},
            "_meta": {"title": "Fit"},
        },
        "4": {
            "class_type": "SaveImage",
            "inputs": {"images": ["3", 0], "filename_prefix": "queued/blank"},
            "_meta": {"title": "The picture"},
        },
    }
    for target, value in changes.items():
        node, _, name = target.removeprefix("node").partition("_")
        graph[node]["inputs"][name] = value
    return graph


def start(comfy_server, file: Path, *arguments: str) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, str(ROOT / "cli.py"), "queue", str(file), "--server", comfy_server.url, *arguments],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        encoding="utf-8",
        creationflags=getattr(subprocess, "CREATE_NEW_PROCESS_GROUP", 0),
    )


@pytest.fixture
def queue(comfy_server, tmp_path):
    def queue(graph: dict, *arguments: str) -> tuple[int, str, str]:
        file = tmp_path / "prompt.json"
        file.write_text(json.dumps(graph), encoding="utf-8")
        process = start(comfy_server, file, *arguments)
        out, err = process.communicate(timeout=120)
        return process.returncode, out, err

    return queue


def test_paths_on_stdout_progress_on_stderr(queue, comfy_server):
    code, out, err = queue(prompt(), "--set", "Blank.color=16711680")
    assert code == 0, err
    (path,) = map(Path, out.splitlines())
    assert path.is_file() and path.parent == comfy_server.base_directory / "output" / "queued"
    assert "Wait" in err.splitlines()
    assert "Fit: 64×32 → 64×32" in err.splitlines(), "what a node says of itself"
    from PIL import Image

    assert Image.open(path).getpixel((5, 5)) == (255, 0, 0), "--set reached the server"


def test_a_failed_run_is_the_nodes_sentence_and_exit_code_1(queue):
    code, out, err = queue(prompt(node3_height=320))
    assert code == 1
    assert out == ""
    assert "Fit: The picture is 64×32" in err and "Traceback" not in err


def test_a_refused_prompt_says_which_input(queue):
    code, out, err = queue(prompt(node1_width=-5))
    assert code == 1
    assert "Blank: " in err and "width" in err


def test_an_unknown_node_is_named(queue):
    graph = prompt()
    graph["3"]["class_type"] = "NoSuchNode"
    code, _, err = queue(graph)
    assert code == 1
    assert "Node 'Fit' not found" in err


@pytest.mark.skipif(os.name == "nt", reason="a test cannot press Ctrl-C for another process on Windows")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_and_a_stopped_container_stop_the_run_on_the_server(comfy_server, tmp_path, number):
    file = tmp_path / "prompt.json"
    file.write_text(json.dumps(prompt(node2_seconds=300, node1_color=1234)), encoding="utf-8")
    process = start(comfy_server, file)
    deadline = time.monotonic() + 60
    while not comfy_server.get("/queue")["queue_running"]:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    prompt_id = comfy_server.get("/queue")["queue_running"][0][1]
    assert "Wait" in iter(lambda: process.stderr.readline().strip(), "")
    process.send_signal(number)
    _, err = process.communicate(timeout=30)
    assert process.returncode == 130
    assert "Stopped." in err and "Traceback" not in err
    assert comfy_server.wait(prompt_id, timeout=10).interrupted


def test_without_aiohttp_it_asks_now_and_then(queue, monkeypatch, tmp_path):
    """An operator's own Python has no aiohttp; everything but the progress lines is the same."""
    (tmp_path / "hidden").mkdir()
    (tmp_path / "hidden" / "sitecustomize.py").write_text(
        "import sys, importlib.util\n"
        "find = importlib.util.find_spec\n"
        "importlib.util.find_spec = lambda name, package=None: None if name == 'aiohttp' else find(name, package)\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "hidden"))
    code, out, err = queue(prompt(node1_color=77))
    assert code == 0, err
    assert Path(out.strip()).is_file()
    assert err == "", "the progress lines need aiohttp"


class Shaky(http.server.BaseHTTPRequestHandler):
    """Passes on to ComfyUI, but refuses the websocket and the first and third question about the prompt."""

    target = ""
    asked = 0

    def answer(self):
        if self.path.startswith("/ws"):
            return self.send_error(401)
        Shaky.asked += self.command == "GET"
        if self.command == "GET" and Shaky.asked in (1, 3):
            return self.send_error(502)
        body = self.rfile.read(int(self.headers.get("Content-Length", 0))) or None
        request = urllib.request.Request(self.target + self.path, body, {"Content-Type": "application/json"})
        with urllib.request.urlopen(request) as answer:
            data = answer.read()
        self.send_response(200)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    do_GET = do_POST = answer

    def log_message(self, *args):
        pass


def test_a_server_behind_something_that_stumbles(comfy_server, tmp_path):
    Shaky.target = comfy_server.url
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Shaky) as between:
        threading.Thread(target=between.serve_forever, daemon=True).start()
        file = tmp_path / "prompt.json"
        file.write_text(json.dumps(prompt(node1_color=99)), encoding="utf-8")
        process = start(SimpleNamespace(url=f"http://127.0.0.1:{between.server_port}"), file)
        out, err = process.communicate(timeout=120)
        between.shutdown()
    assert process.returncode == 0, err
    assert Path(out.strip()).is_file()


def test_a_server_that_wants_a_login_is_not_called_absent(tmp_path):
    class Closed(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_error(401)

        do_POST = do_GET
        log_message = Shaky.log_message

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Closed) as between:
        threading.Thread(target=between.serve_forever, daemon=True).start()
        file = tmp_path / "prompt.json"
        file.write_text(json.dumps(prompt()), encoding="utf-8")
        process = start(SimpleNamespace(url=f"http://127.0.0.1:{between.server_port}"), file)
        _, err = process.communicate(timeout=60)
        between.shutdown()
    assert process.returncode == 1
    assert "refused with 401 (Unauthorized)" in err and "Traceback" not in err
