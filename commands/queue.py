"""`cli.py queue`: runs an API prompt on a ComfyUI server, as a script needs it.

The paths of the files made go to stdout, one a line; progress and sentences go to stderr. Exit code: 0 done, 1 the run
failed, 2 wrong usage, 130 stopped by Ctrl-C or SIGTERM, which also stops the run on the server.
"""

import argparse
import asyncio
import json
import re
import signal
import sys
import time
import uuid
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from ..base.plain import one_line, visible
from .prompt import fill_from_environment, read_prompt, set_input, title
from .server import Server, Trouble

POLL_SECONDS = 1.0
SOCKET_SECONDS = 10  # for what would only show the steps
PATIENCE_SECONDS = 60  # with a server, or what stands before it, that does not answer during a run
NO_WORDS = "it failed without a word. ComfyUI's own log may say more."
TEXT_MESSAGE = 3  # ComfyUI's number for a text under a node
LOG_SECONDS = 10
COUNTED = re.compile(r"[\d.,]+ ?(s|min|h|GB|MB)?\b")  # what changes in a counter's line
END_EVENTS = ("execution_success", "execution_error", "execution_interrupted")


def add_parser(subparsers: argparse._SubParsersAction) -> argparse.ArgumentParser:
    parser = subparsers.add_parser("queue", help="run an API prompt on a ComfyUI server", description=__doc__)
    parser.add_argument("file", type=Path, help="a prompt in API format, such as example_workflows/api/*.json")
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="NODE.INPUT=VALUE",
        help="another value for an input; NODE is the node's id or its title. May be given often",
    )
    parser.add_argument(
        "--server",
        default="http://127.0.0.1:8188",
        metavar="ADDRESS",
        help="the server's address, with user:password@ before the host where it wants a login (default: %(default)s)",
    )
    parser.add_argument(
        "--header",
        action="append",
        default=[],
        metavar="'NAME: VALUE'",
        help="is sent along with every question, for a login of another kind. May be given often",
    )
    return parser


def run(args: argparse.Namespace) -> int:
    """0 done, 1 the run failed, 2 wrong usage. Raises Trouble where the server cannot be talked to."""
    try:
        prompt = read_prompt(args.file)
        fill_from_environment(prompt)
        for assignment in args.set:
            set_input(prompt, assignment)
        server = Server(args.server, args.header)
    except ValueError as err:
        print(visible(str(err)), file=sys.stderr)
        return 2
    job = Job(server, prompt)
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # a container that is stopped
    try:
        asyncio.run(job.follow())
    except KeyboardInterrupt:
        job.cancel()
        raise
    except Trouble as err:
        if job.heard is None:
            raise
        raise RuntimeError(
            f"{server.address} has not answered for {PATIENCE_SECONDS} seconds. If it still runs, the run goes on there, "
            f"and its result will be in its output folder. {err}"
        ) from err
    return job.report()


class Job:
    """One prompt on one server, from posting it to telling what came of it."""

    def __init__(self, server: Server, prompt: dict) -> None:
        self.server = server
        self.prompt = prompt
        self.id = str(uuid.uuid4())
        self.client_id = uuid.uuid4().hex
        self.heard: float | None = None  # when the server answered last, once it has the prompt
        self.history: dict | None = None
        self.refusal: dict | None = None
        self.folders: dict[str, Path] = {}
        self.running, self.shown = "", ""  # the node at work, and its title
        self.text, self.said = "", 0.0  # what it said last, and when that was printed

    async def follow(self) -> None:
        """Posts the prompt and waits for its end. Where aiohttp is installed, every step is shown as it happens.

        Raises Trouble when the server does not answer, or not as ComfyUI does.
        """
        if find_spec("aiohttp"):
            await self.post_and_watch()
        if self.heard is None:
            self.post()
        while not self.finished():
            await asyncio.sleep(POLL_SECONDS)

    async def post_and_watch(self) -> None:
        """Listens to what the page would be told, from before the prompt is posted until it has ended.

        Returns early where that cannot be had, posted or not.
        """
        import aiohttp

        async def stay(*_: Any) -> None:
            raise aiohttp.ClientError("The login would go along to where this leads.")

        address = "ws" + self.server.link(f"/ws?clientId={self.client_id}").removeprefix("http")
        trace = aiohttp.TraceConfig()
        trace.on_request_redirect.append(stay)
        options: dict[str, Any] = {"headers": self.server.headers, "proxy": self.server.proxy, "max_msg_size": 0}
        try:
            async with aiohttp.ClientSession(trace_configs=[trace]) as session:
                socket = await asyncio.wait_for(session.ws_connect(address, **options), SOCKET_SECONDS)
                self.post()
                while self.refusal is None:
                    try:
                        message = await socket.receive(timeout=POLL_SECONDS)
                    except asyncio.TimeoutError:
                        if self.finished():
                            return
                        continue
                    if message.type == aiohttp.WSMsgType.TEXT:
                        if self.told(json.loads(message.data)):
                            return
                    elif message.type == aiohttp.WSMsgType.BINARY:
                        self.say(*node_text(message.data))
                    else:
                        return  # the server closed the connection
        except (aiohttp.ClientError, asyncio.TimeoutError, OSError, ValueError, RecursionError):
            return

    def told(self, event: dict) -> bool:
        """Takes in what the page would be told. Whether the run has ended with it."""
        data = event.get("data") if isinstance(event, dict) else None
        if not isinstance(data, dict) or data.get("prompt_id") != self.id:
            return False
        self.show(str(event.get("type")), data)
        return event.get("type") in END_EVENTS

    def post(self) -> None:
        """Puts the prompt into the server's queue; what the server has against it is kept in `refusal`."""
        status, answer = self.server.request(
            "/prompt", {"prompt": self.prompt, "prompt_id": self.id, "client_id": self.client_id}
        )
        if status == 400 and "error" in answer:
            self.refusal = answer
        elif status == 400 or "prompt_id" not in answer:
            raise self.server.odd("it does not say whether it took the prompt")
        self.heard = time.monotonic()

    def finished(self) -> bool:
        """Whether the run has ended, one way or another; then `history` and `folders` say what came of it."""
        if self.refusal is not None or self.history is not None:
            return True
        try:
            _, queue = self.server.request("/queue")
            _, history = self.server.request(f"/history/{self.id}")
            try:
                waiting = any(item[1] == self.id for item in queue["queue_running"] + queue["queue_pending"])
            except (KeyError, TypeError, IndexError) as err:
                raise self.server.odd("it has no queue") from err
            if self.id in history:
                self.folders = folders_of(self.server.request("/system_stats")[1])
        except Trouble:
            if self.heard is None or time.monotonic() - self.heard > PATIENCE_SECONDS:
                raise
            return False
        self.heard = time.monotonic()
        self.history = history.get(self.id)
        return self.history is not None or not waiting

    def show(self, event: str, data: dict) -> None:
        """One line for the node at work: rewritten on a terminal, printed once a node in a log."""
        if event != "progress_state" or not isinstance(data.get("nodes"), dict):
            return
        for key, state in data["nodes"].items():
            node = self.prompt.get(state.get("display_node_id") or key)
            if state.get("state") != "running" or node is None:
                continue
            line = one_line(title(node))
            counted = f" {state['value']:.0f} of {state['max']:.0f}" if state["max"] > 1 else ""
            if line != self.shown:
                self.begin(line, counted)
            elif sys.stderr.isatty() and not self.text:  # what the node says of itself says more
                print(f"\r\033[K{line}{counted}", end="", file=sys.stderr, flush=True)
            self.running = state.get("display_node_id") or key

    def begin(self, line: str, counted: str) -> None:
        """The line of a node that begins. What the one before said last stays."""
        if sys.stderr.isatty():
            print("\n" if self.text else "\r\033[K", end="", file=sys.stderr)
            print(f"{line}{counted}", end="", file=sys.stderr, flush=True)
        else:
            print(line, file=sys.stderr, flush=True)
        self.shown, self.text = line, ""

    def say(self, node_id: str, text: str) -> None:
        """What the node at work says of itself: rewritten on a terminal; in a log each kind of line at once, and a counter
        that goes on every ten seconds."""
        if not text or node_id != self.running:
            return
        line, now = one_line(f"{self.shown}: {' '.join(text.split())}"), time.monotonic()
        if sys.stderr.isatty():
            print(f"\r\033[K{line}", end="", file=sys.stderr, flush=True)
        elif COUNTED.sub("", text) != COUNTED.sub("", self.text) or now - self.said >= LOG_SECONDS:
            print(line, file=sys.stderr, flush=True)
            self.said = now
        self.text = text

    def cancel(self) -> None:
        """Stops the run on the server, or takes it out of the queue."""
        try:
            self.server.request(f"/api/jobs/{self.id}/cancel", {})
        except Trouble as err:
            print(f"The server could not be told to stop. {err}", file=sys.stderr)

    def report(self) -> int:
        """Prints what came of it and returns the exit code. Raises Trouble where the server's record cannot be read."""
        if sys.stderr.isatty() and self.shown:
            print(file=sys.stderr)
        try:
            problems = self.problems()
            results, texts = ([], []) if problems else self.results()
        except (KeyError, TypeError, ValueError, AttributeError) as err:
            raise self.server.odd("its record of the run cannot be read") from err
        for line in problems or texts:
            print(visible(line), file=sys.stderr)
        for path in results:
            name = one_line(path)
            print(name)
            if name != path:
                print(
                    f"The name of {name} has signs that no line can hold: they are written as \\… here.",
                    file=sys.stderr,
                )
        return 1 if problems else 0

    def problems(self) -> list[str]:
        """What kept the run from its end, a sentence each."""
        if self.refusal is not None:
            return refusal_sentences(self.refusal, self.prompt)
        # Taken out of the queue before its turn, a prompt leaves no trace.
        status: dict[str, Any] = self.history["status"] if self.history else {"status_str": "error", "messages": []}
        messages: dict[str, dict] = dict(status["messages"])
        if "execution_error" in messages:
            error = messages["execution_error"]
            node = self.prompt.get(error["node_id"])
            return [f"{title(node) if node else error['node_type']}: {error['exception_message'].strip() or NO_WORDS}"]
        return [] if status["status_str"] == "success" else ["The run was cancelled on the server."]

    def results(self) -> tuple[list[str], list[str]]:
        """The paths of the files made, or of previews where nothing else was, and the texts shown under nodes."""
        assert self.history, "a run without problems has a record"
        paths: list[str] = []
        previews: list[str] = []
        texts = []
        for key, output in self.history["outputs"].items():
            for kind, items in output.items():
                for item in items if isinstance(items, list) else ():
                    if isinstance(item, dict) and "filename" in item:
                        kind_of_folder = item.get("type") or "output"
                        folder = self.folders.get(kind_of_folder, Path(kind_of_folder))
                        made = previews if kind_of_folder == "temp" else paths
                        made.append(str(folder / item.get("subfolder", "") / item["filename"]))
                    elif kind == "text":
                        node = self.prompt.get(key)
                        texts.append(f"{title(node) if node else key}: {item}")
        return paths or previews, texts


def node_text(data: bytes) -> tuple[str, str]:
    """(node id, text) of a message of ComfyUI's that shows a text under a node; empty ones of any other: previews."""
    if len(data) < 8 or int.from_bytes(data[:4], "big") != TEXT_MESSAGE:
        return "", ""
    end = 8 + int.from_bytes(data[4:8], "big")
    return data[8:end].decode("utf-8", "replace"), data[end:].decode("utf-8", "replace")


def folders_of(stats: dict) -> dict[str, Path]:
    """From "output" or "temp" to the folder, where the server is on this machine, by what it was started with."""
    system = stats.get("system")
    arguments = system.get("argv") if isinstance(system, dict) else None
    if not isinstance(arguments, list) or not arguments or not all(isinstance(part, str) for part in arguments):
        return {}
    given = dict(zip(arguments, arguments[1:]))
    base = Path(given.get("--base-directory") or Path(arguments[0]).parent)
    folders = {kind: Path(given.get(f"--{kind}-directory") or base / kind) for kind in ("input", "output", "temp")}
    return {kind: path for kind, path in folders.items() if path.is_absolute() and path.is_dir()}


def refusal_sentences(answer: dict, prompt: dict) -> list[str]:
    """What the server has against a prompt, a sentence a problem."""
    sentences = []
    for key, problem in answer.get("node_errors", {}).items():
        name = title(prompt[key]) if key in prompt else problem["class_type"]
        sentences += [f"{name}: {error['message']}: {error['details']}" for error in problem["errors"]]
    error = answer.get("error", {})
    return sentences or [
        " ".join(filter(None, (error.get("message"), error.get("details")))) or "The prompt was refused."
    ]
