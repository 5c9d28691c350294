"""A plain client of ComfyUI's HTTP API, as an operator's script would use it."""

import contextlib
import json
import mimetypes
import struct
import threading
import time
import urllib.error
import urllib.request
import uuid
from dataclasses import dataclass
from pathlib import Path


class Refused(Exception):
    """The server did not take the prompt; `answer` is what it said, `str()` its sentences in one."""

    def __init__(self, answer: dict):
        self.answer = answer
        sentences = [answer.get("error", {}).get("message", "")]
        for node in answer.get("node_errors", {}).values():
            sentences += [f"{node['class_type']}: {error['message']}: {error['details']}" for error in node["errors"]]
        super().__init__("\n".join(sentences))


@dataclass
class Result:
    """One finished prompt, as /history has it."""

    prompt_id: str
    history: dict
    output_directory: Path

    @property
    def messages(self) -> dict[str, dict]:
        """execution_start, execution_cached, execution_success, execution_error, execution_interrupted → their data."""
        return dict(self.history["status"]["messages"])

    @property
    def succeeded(self) -> bool:
        return self.history["status"]["status_str"] == "success"

    @property
    def interrupted(self) -> bool:
        return "execution_interrupted" in self.messages

    @property
    def error(self) -> str | None:
        """The sentence that the user sees under the node, None when nothing failed."""
        failure = self.messages.get("execution_error")
        return failure["exception_message"].strip() if failure else None

    @property
    def cached(self) -> list[str]:
        """The nodes that were not executed because their result was still known."""
        return self.messages.get("execution_cached", {}).get("nodes", [])

    @property
    def outputs(self) -> dict[str, dict]:
        return self.history["outputs"]

    @property
    def files(self) -> list[Path]:
        """Every file that the prompt's output nodes saved, in node order."""
        found = []
        for output in self.outputs.values():
            for items in output.values():
                for item in items if isinstance(items, list) else ():
                    if isinstance(item, dict) and "filename" in item:
                        folder = self.output_directory.with_name(item.get("type", "output"))
                        found.append(folder / item.get("subfolder", "") / item["filename"])
        return found


class Client:
    """Talks to the server at `url`; `base_directory` is where its input and output folders are."""

    def __init__(self, url: str, base_directory: Path):
        self.url = url.rstrip("/")
        self.base_directory = base_directory
        self.client_id = uuid.uuid4().hex

    def get(self, path: str, timeout: float = 60):
        with urllib.request.urlopen(self.url + path, timeout=timeout) as answer:
            return json.load(answer)

    def get_bytes(self, path: str, timeout: float = 60) -> bytes:
        with urllib.request.urlopen(self.url + path, timeout=timeout) as answer:
            return answer.read()

    def post(self, path: str, body: dict | None = None, timeout: float = 60):
        request = urllib.request.Request(
            self.url + path, json.dumps(body or {}).encode(), {"Content-Type": "application/json"}
        )
        with urllib.request.urlopen(request, timeout=timeout) as answer:
            content = answer.read()
            return json.loads(content) if content else None

    def queue(self, prompt: dict, workflow: dict | None = None) -> str:
        """Posts an API prompt and returns its id. Raises Refused when validation fails."""
        body = {"prompt": prompt, "client_id": self.client_id}
        if workflow is not None:
            body["extra_data"] = {"extra_pnginfo": {"workflow": workflow}}
        try:
            return self.post("/prompt", body)["prompt_id"]
        except urllib.error.HTTPError as err:
            if err.code != 400:
                raise
            raise Refused(json.load(err)) from err

    def wait(self, prompt_id: str, timeout: float = 300) -> Result:
        """Waits until the prompt has finished, one way or another."""
        end = time.monotonic() + timeout
        while time.monotonic() < end:
            history = self.get(f"/history/{prompt_id}")
            if prompt_id in history:
                return Result(prompt_id, history[prompt_id], self.base_directory / "output")
            self.require_alive()
            time.sleep(0.05)
        raise TimeoutError(f"prompt {prompt_id} did not finish in {timeout:.0f} s")

    def require_alive(self) -> None:
        """Raises when the server can never finish a prompt again; a client of somebody else's server cannot know."""

    def run(self, prompt: dict, timeout: float = 300, workflow: dict | None = None) -> Result:
        """Posts a prompt and waits for it. Failures are in the result, not raised."""
        return self.wait(self.queue(prompt, workflow), timeout)

    def succeed(self, prompt: dict, timeout: float = 300, workflow: dict | None = None) -> Result:
        """`run`, for prompts that must work."""
        result = self.run(prompt, timeout, workflow)
        assert result.succeeded, result.error or result.history["status"]
        return result

    def interrupt(self, prompt_id: str | None = None) -> None:
        self.post("/interrupt", {"prompt_id": prompt_id} if prompt_id else {})

    def free(self) -> None:
        """Unloads the models and forgets all cached results."""
        self.post("/free", {"unload_models": True, "free_memory": True})

    def object_info(self, node_id: str = "") -> dict:
        return self.get(f"/object_info/{node_id}" if node_id else "/object_info")

    def upload_image(self, file: Path) -> str:
        """Puts a file into the input folder through the API and returns its name there."""
        boundary = uuid.uuid4().hex
        kind = mimetypes.guess_type(file.name)[0] or "application/octet-stream"
        head = (
            f'--{boundary}\r\nContent-Disposition: form-data; name="image"; filename="{file.name}"\r\n'
            f"Content-Type: {kind}\r\n\r\n"
        )
        body = head.encode() + file.read_bytes() + f"\r\n--{boundary}--\r\n".encode()
        request = urllib.request.Request(
            f"{self.url}/upload/image", body, {"Content-Type": f"multipart/form-data; boundary={boundary}"}
        )
        with urllib.request.urlopen(request, timeout=60) as answer:
            return json.load(answer)["name"]

    @contextlib.contextmanager
    def events(self):
        """What the page is told while the block runs: a growing `Events` list."""
        events = Events()
        ready, stop = threading.Event(), threading.Event()
        thread = threading.Thread(target=self._listen, args=(events, ready, stop), daemon=True)
        thread.start()
        assert ready.wait(30), "the websocket did not open"
        try:
            yield events
        finally:
            stop.set()
            thread.join(10)

    def _listen(self, events: "Events", ready: threading.Event, stop: threading.Event) -> None:
        import asyncio

        import aiohttp

        async def listen():
            address = self.url.replace("http", "ws", 1) + f"/ws?clientId={self.client_id}"
            async with aiohttp.ClientSession() as session, session.ws_connect(address, max_msg_size=0) as socket:
                while not stop.is_set():
                    try:
                        message = await socket.receive(timeout=0.1)
                    except asyncio.TimeoutError:
                        continue
                    if message.type == aiohttp.WSMsgType.TEXT:
                        event = json.loads(message.data)
                        events.append((time.monotonic(), event["type"], event["data"]))
                        ready.set()
                    elif message.type == aiohttp.WSMsgType.BINARY:
                        events.append(binary_event(message.data))
                    else:
                        return

        asyncio.run(listen())


class Events(list):
    """(monotonic time, event name, data) in the order of arrival. Node text lines arrive as `progress_text`."""

    def named(self, name: str) -> list:
        """The data of every event of that name so far."""
        return [data for _, event, data in self if event == name]

    def wait_for(self, name: str, accept=lambda data: True, timeout: float = 60):
        """Waits for the first event of that name that `accept` likes and returns its data."""
        end = time.monotonic() + timeout
        while time.monotonic() < end:
            for data in self.named(name):
                if accept(data):
                    return data
            time.sleep(0.02)
        raise TimeoutError(f"no {name} event in {timeout:.0f} s")

    @property
    def texts(self) -> list[tuple[str, str]]:
        """(node id, line) for every progress line shown under a node."""
        return [(data["node"], data["text"]) for data in self.named("progress_text")]


def binary_event(data: bytes) -> tuple[float, str, dict]:
    kind = struct.unpack(">I", data[:4])[0]
    if kind == 3:
        length = struct.unpack(">I", data[4:8])[0]
        node, text = data[8 : 8 + length].decode(), data[8 + length :].decode("utf-8", "replace")
        return time.monotonic(), "progress_text", {"node": node, "text": text}
    return time.monotonic(), "preview", {"kind": kind, "bytes": len(data)}
