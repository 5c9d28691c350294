"""`cli.py queue`: runs an API prompt on a ComfyUI server, as a script needs it.

The paths of the files made go to stdout, one a line; progress and sentences go to stderr. Exit code: 0 done, 1 the run
failed, 2 wrong usage, 130 stopped by Ctrl-C, which also stops the run on the server.
"""

import argparse
import asyncio
import http.client
import json
import sys
import time
import urllib.error
import urllib.request
import uuid
from importlib.util import find_spec
from pathlib import Path

from .. import environment

# Environment variable → the inputs that it fills in, as (node class, input). The second table is for graphs of few steps.
NUMBERS = {
    "STEADYDANCER_GUIDE_SCALE": [("SteadyDancerGuider", "cfg")],
    "STEADYDANCER_CONDITION_GUIDE": [("SteadyDancerGuider", "pose_cfg")],
    "STEADYDANCER_END_CFG": [("SteadyDancerGuider", "end")],
    "STEADYDANCER_SEED": [("RandomNoise", "noise_seed"), ("KSampler", "seed"), ("SteadyDancerTurboSampler", "seed")],
    "DWPOSE_RESOLUTION": [("SteadyDancerPoseEstimator", "resolution")],
}
TURBO_NUMBERS = {
    "TURBO_STEPS": [("SteadyDancerSchedule", "steps"), ("SteadyDancerRCMSchedule", "steps")],
    "TURBO_GUIDE_SCALE": [("SteadyDancerGuider", "cfg")],
    "TURBO_CONDITION_GUIDE": [("SteadyDancerGuider", "pose_cfg")],
    "TURBO_END_CFG": [("SteadyDancerGuider", "end")],
}
TURBO_NODES = {"SteadyDancerRCMSchedule", "SteadyDancerTurboSampler", "SteadyDancerTurboLoader"}
POLL_SECONDS = 1.0
PATIENCE_SECONDS = 60  # with a server, or what stands before it, that does not answer during a run
END_EVENTS = ("execution_success", "execution_error", "execution_interrupted")


class UsageError(ValueError):
    """The command line or the file asks for something that cannot be."""


def add_parser(subparsers) -> argparse.ArgumentParser:
    parser = subparsers.add_parser("queue", help="run an API prompt on a ComfyUI server", description=__doc__)
    parser.add_argument("file", type=Path, help="a prompt in API format, such as example_workflows/api/*.json")
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="NODE.INPUT=VALUE",
        help="another value for an input; NODE is the node's id or its title. May be given often",
    )
    parser.add_argument("--server", default="http://127.0.0.1:8188", help="the server's address (default: %(default)s)")
    return parser


def run(args: argparse.Namespace) -> int:
    try:
        prompt = read_prompt(args.file)
        fill_from_environment(prompt)
        for assignment in args.set:
            set_input(prompt, assignment)
    except UsageError as err:
        print(err, file=sys.stderr)
        return 2
    job = Job(args.server.rstrip("/"), prompt)
    try:
        asyncio.run(job.follow())
    except KeyboardInterrupt:
        job.cancel()
        raise
    except ValueError as err:
        raise RuntimeError(f"{job.server} does not answer as ComfyUI does ({err}). Look at the address.") from err
    except OSError as err:
        if job.heard is not None:
            raise RuntimeError(
                f"{job.server} has not answered for {PATIENCE_SECONDS} seconds ({err}). If it still runs, the run goes on "
                "there, and its result will be in its output folder."
            ) from err
        if isinstance(err, urllib.error.HTTPError):
            raise RuntimeError(f"{job.server} refused with {err.code} ({err.reason}). Look at the address.") from err
        raise RuntimeError(
            f"No ComfyUI answers at {job.server} ({getattr(err, 'reason', err)}). Start it, or give its address with "
            "--server."
        ) from err
    return job.report()


def read_prompt(file: Path) -> dict:
    """The prompt in an API file.

    Raises UsageError when the file is not there or is not one.
    """
    try:
        prompt = json.loads(file.read_text("utf-8"))
    except OSError as err:
        raise UsageError(f"{file} cannot be read: {err.strerror}. Give the path of an API prompt.") from err
    except ValueError as err:
        raise UsageError(f"{file} is not JSON: {err}. Export it again from ComfyUI with Export (API).") from err
    if isinstance(prompt, dict) and "nodes" in prompt:
        raise UsageError(
            f"{file} is a workflow for the page, which holds no prompt. Open it there and use Export (API), or take the "
            "file of that name in example_workflows/api."
        )
    if not isinstance(prompt, dict) or not all(
        isinstance(node, dict) and "class_type" in node and isinstance(node.get("inputs"), dict)
        for node in prompt.values()
    ):
        raise UsageError(f"{file} is not an API prompt. Export it from ComfyUI with Export (API).")
    return prompt


def fill_from_environment(prompt: dict) -> None:
    """Puts the numbers that are set in the environment into the inputs they belong to.

    In a graph of few steps (a TurboDiffusion model or a step-distilled LoRA) the TURBO_ variables come last and win.

    Raises UsageError for a variable that is not a number.
    """
    table = NUMBERS | TURBO_NUMBERS if is_turbo(prompt) else NUMBERS
    for variable, targets in table.items():
        if not environment.text(variable):
            continue
        try:
            value = environment.number(variable, 0)
        except ValueError as err:
            raise UsageError(str(err)) from err
        for node in prompt.values():
            for class_type, name in targets:
                old = node["inputs"].get(name)
                if node["class_type"] == class_type and isinstance(old, int | float):
                    node["inputs"][name] = int(value) if isinstance(old, int) and value == int(value) else value


def is_turbo(prompt: dict) -> bool:
    for node in prompt.values():
        lora = str(node["inputs"].get("lora_name", "")).lower()
        distilled = "distill" in lora or "lightx2v" in lora or node["inputs"].get("step_distill") is True
        if node["class_type"] in TURBO_NODES or distilled:
            return True
    return False


def set_input(prompt: dict, assignment: str) -> None:
    """Carries out one NODE.INPUT=VALUE. The value's kind follows the one that is there.

    Raises UsageError, saying what there is, where node, input or value does not fit.
    """
    target, equals, text = assignment.partition("=")
    if not equals or "." not in target:
        raise UsageError(f"--set {assignment}: write it as NODE.INPUT=VALUE, for example 19.steps=20.")
    node, name = find_input(prompt, target)
    old = node["inputs"][name]
    if isinstance(old, list):
        raise UsageError(f"--set {assignment}: this input comes from node {old[0]}. Set that node's input instead.")
    if isinstance(old, str):
        node["inputs"][name] = text
        return
    try:
        value = json.loads(text)
    except ValueError:
        value = text
    wanted = bool if isinstance(old, bool) else (int, float)
    if isinstance(old, bool | int | float) and (
        not isinstance(value, wanted) or isinstance(value, bool) != (wanted is bool)
    ):
        kind = "true or false" if wanted is bool else "a number"
        raise UsageError(f"--set {assignment}: '{text}' is not {kind}, which this input takes.")
    node["inputs"][name] = value


def find_input(prompt: dict, target: str) -> tuple[dict, str]:
    """The node and the input that "NODE.INPUT" means; titles and inputs may have dots of their own."""
    named = False
    for position in (i for i, letter in enumerate(target) if letter == "."):
        who, name = target[:position], target[position + 1 :]
        nodes = [who] if who in prompt else [key for key, node in prompt.items() if title(node) == who]
        if len(nodes) > 1:
            raise UsageError(f"--set {target}: several nodes are called '{who}'. Use an id: {', '.join(nodes)}.")
        if nodes and name in prompt[nodes[0]]["inputs"]:
            return prompt[nodes[0]], name
        if nodes:
            named = True
            inputs = ", ".join(prompt[nodes[0]]["inputs"]) or "none"
            problem = f"--set {target}: '{who}' has no input '{name}'. It has: {inputs}."
    if named:
        raise UsageError(problem)
    names = ", ".join(f"{key} ({title(node)})" for key, node in prompt.items())
    raise UsageError(f"--set {target}: no node has this id or title. There are: {names}.")


def title(node: dict) -> str:
    return node.get("_meta", {}).get("title") or node["class_type"]


class Job:
    """One prompt on one server, from posting it to telling what came of it."""

    def __init__(self, server: str, prompt: dict):
        self.server = server
        self.prompt = prompt
        self.id = str(uuid.uuid4())
        self.client_id = uuid.uuid4().hex
        self.heard = None  # when the server answered last, once it has the prompt
        self.history = None
        self.refusal = None
        self.shown = ""

    def request(self, path: str, body: dict | None = None) -> dict:
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self.server + path, data, {"Content-Type": "application/json"})
        with urllib.request.urlopen(request, timeout=30) as answer:
            return json.loads(answer.read() or b"{}")

    async def follow(self) -> None:
        """Posts the prompt and waits for its end. Where aiohttp is installed, every step is shown as it happens."""
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

        address = "ws" + self.server.removeprefix("http") + f"/ws?clientId={self.client_id}"
        try:
            async with aiohttp.ClientSession() as session, session.ws_connect(address, max_msg_size=0) as socket:
                self.post()
                while self.refusal is None:
                    try:
                        message = await socket.receive(timeout=POLL_SECONDS)
                    except asyncio.TimeoutError:
                        if self.finished():
                            return
                        continue
                    if message.type == aiohttp.WSMsgType.TEXT:
                        event = json.loads(message.data)
                        self.show(event["type"], event["data"])
                        if event["type"] in END_EVENTS and event["data"]["prompt_id"] == self.id:
                            return
                    elif message.type != aiohttp.WSMsgType.BINARY:
                        return  # the server closed the connection
        except aiohttp.ClientError:
            return

    def post(self) -> None:
        body = {"prompt": self.prompt, "prompt_id": self.id, "client_id": self.client_id}
        try:
            self.request("/prompt", body)
        except urllib.error.HTTPError as err:
            if err.code != 400:
                raise
            self.refusal = json.loads(err.read())
        self.heard = time.monotonic()

    def finished(self) -> bool:
        if self.refusal is not None:
            return True
        try:
            queue = self.request("/queue")
            waiting = any(item[1] == self.id for item in queue["queue_running"] + queue["queue_pending"])
            self.history = self.request(f"/history/{self.id}").get(self.id)
        except (OSError, ValueError, http.client.HTTPException):
            if time.monotonic() - self.heard > PATIENCE_SECONDS:
                raise
            return False
        self.heard = time.monotonic()
        return self.history is not None or not waiting

    def show(self, event: str, data: dict) -> None:
        """One line for the node at work: rewritten on a terminal, printed once a node in a log."""
        if event != "progress_state" or data["prompt_id"] != self.id:
            return
        for key, state in data["nodes"].items():
            node = self.prompt.get(state.get("display_node_id") or key)
            if state["state"] != "running" or node is None:
                continue
            line = title(node)
            if sys.stderr.isatty():
                counted = f" {state['value']:.0f} of {state['max']:.0f}" if state["max"] > 1 else ""
                print(f"\r\033[K{line}{counted}", end="", file=sys.stderr, flush=True)
            elif line != self.shown:
                print(line, file=sys.stderr, flush=True)
            self.shown = line

    def cancel(self) -> None:
        """Stops the run on the server, or takes it out of the queue."""
        try:
            self.request(f"/api/jobs/{self.id}/cancel", {})
        except OSError as err:
            print(f"The server could not be told to stop: {err}", file=sys.stderr)

    def report(self) -> int:
        """Prints what came of it and returns the exit code."""
        if sys.stderr.isatty() and self.shown:
            print(file=sys.stderr)
        if self.refusal is not None:
            for sentence in refusal_sentences(self.refusal, self.prompt):
                print(sentence, file=sys.stderr)
            return 1
        # Taken out of the queue before its turn, a prompt leaves no trace.
        status = self.history["status"] if self.history else {"status_str": "error", "messages": []}
        messages = dict(status["messages"])
        if "execution_error" in messages:
            error = messages["execution_error"]
            node = self.prompt.get(error["node_id"])
            print(
                f"{title(node) if node else error['node_type']}: {error['exception_message'].strip()}", file=sys.stderr
            )
            return 1
        if status["status_str"] != "success":
            print("The run was cancelled on the server.", file=sys.stderr)
            return 1
        folders = self.folders()
        for key, output in self.history["outputs"].items():
            for kind, items in output.items():
                for item in items if isinstance(items, list) else ():
                    if isinstance(item, dict) and "filename" in item:
                        print(folders(item["type"]) / item.get("subfolder", "") / item["filename"])
                    elif kind == "text":
                        print(f"{title(self.prompt[key])}: {item}", file=sys.stderr)
        return 0

    def folders(self):
        """From "output" or "temp" to the folder on this machine where the server is on it, else to that word."""
        arguments = self.request("/system_stats")["system"].get("argv", [])
        given = dict(zip(arguments, arguments[1:]))
        base = Path(given.get("--base-directory") or Path(arguments[0]).parent if arguments else "")

        def folder(kind: str) -> Path:
            path = Path(given.get(f"--{kind}-directory") or base / kind)
            return path if path.is_absolute() and path.is_dir() else Path(kind)

        return folder


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
