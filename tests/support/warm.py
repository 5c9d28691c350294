"""Starts ComfyUI in seconds: a process that has imported its libraries, and nothing of its own, forks for every program.

`start(arguments)` is subprocess.Popen for `python *arguments`, where arguments are `-c CODE …` or `SCRIPT …`. Programs
that must find nothing imported (variables that libraries read on import, a sitecustomize) are started with subprocess.
"""

import contextlib
import importlib
import json
import os
import runpy
import select
import signal
import socket
import subprocess
import sys
import types
from pathlib import Path

# What takes the time when ComfyUI starts. A library that is not there is left out.
LIBRARIES = (
    "torch", "torchvision", "torchaudio", "torchsde", "transformers.models.clip", "transformers.models.t5.tokenization_t5",
    "transformers.models.qwen2.tokenization_qwen2", "safetensors.torch", "kornia", "spandrel", "scipy.stats", "scipy.ndimage",
    "av", "PIL.Image", "aiohttp.web", "requests", "sqlalchemy.orm", "alembic.command", "pydantic_settings", "comfy_kitchen",
)  # fmt: skip
FORKS = hasattr(os, "fork") and sys.platform != "darwin"  # macOS forbids much of its own after a fork
LONGEST_ORDER = 1 << 20
ready = None  # the socket to the process that forks, once it is there


def start(arguments: list, env: dict[str, str] | None = None, stdout=None, stderr=None):
    """Starts a Python program; with `stdout` and `stderr` files, else those of this process."""
    arguments, env = [str(argument) for argument in arguments], dict(os.environ) if env is None else env
    if not FORKS:
        return subprocess.Popen(
            [sys.executable, *arguments], env=env, stdin=subprocess.DEVNULL, stdout=stdout, stderr=stderr
        )
    global ready
    if ready is None:
        ready, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with other:
            command = [sys.executable, __file__, str(other.fileno())]
            subprocess.Popen(command, pass_fds=[other.fileno()], stdin=subprocess.DEVNULL, start_new_session=True)
    told, tell = os.pipe()
    order = json.dumps({"arguments": arguments, "env": env, "cwd": os.getcwd()}).encode()
    assert len(order) < LONGEST_ORDER
    files = [(stdout or sys.__stdout__).fileno(), (stderr or sys.__stderr__).fileno(), tell]
    ready.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 2 * LONGEST_ORDER)
    socket.send_fds(ready, [order], files)
    os.close(tell)
    return Forked(arguments, told)


def run(arguments: list, folder: Path, env: dict[str, str] | None = None, timeout: float = 300):
    """subprocess.run with the output captured, by way of files in `folder`."""
    with open(folder / "stdout.txt", "w+b") as out, open(folder / "stderr.txt", "w+b") as err:
        code = start(arguments, env, out, err).wait(timeout)
        said = []
        for file in (out, err):
            file.seek(0)
            said.append(file.read().decode("utf-8", "replace"))
    return subprocess.CompletedProcess(arguments, code, *said)


class Forked:
    """What tests use of subprocess.Popen, for a program that is another process's child."""

    def __init__(self, arguments: list[str], told: int):
        self.args = arguments
        self.told = told
        self.returncode = None
        self.pid = int(os.read(told, 16))

    def poll(self) -> int | None:
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.wait(0)
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        if self.returncode is None:
            if not select.select([self.told], [], [], timeout)[0]:
                raise subprocess.TimeoutExpired(self.args, timeout)
            self.returncode = int(os.read(self.told, 16) or -signal.SIGKILL)
            os.close(self.told)
        return self.returncode

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


# What runs in the process that forks


def next_order(orders: socket.socket) -> dict:
    """Returns in each forked process, with what it is to be. The process that forks ends here with the tests."""
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for those who wait
    while True:
        order, files, _, _ = socket.recv_fds(orders, LONGEST_ORDER, 3)
        if not order:
            os._exit(0)
        if os.fork() == 0:
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            orders.close()
            stdout, stderr, tell = files
            child = os.fork()
            if child:
                os.write(tell, f"{child:16}".encode())
                os._exit(_tell_end(child, tell))
            os.close(tell)
            os.dup2(stdout, 1)
            os.dup2(stderr, 2)
            os.closerange(3, max(files) + 1)
            return json.loads(order)
        for file in files:
            os.close(file)


def _tell_end(child: int, tell: int) -> int:
    _, status = os.waitpid(child, 0)
    with contextlib.suppress(BrokenPipeError):
        os.write(tell, str(os.waitstatus_to_exitcode(status)).encode())
    return 0


def become(order: dict) -> None:
    """Runs the program in this process, as Python would."""
    os.environ.clear()
    os.environ.update(order["env"])
    os.chdir(order["cwd"])
    first, *rest = order["arguments"]
    if first == "-c":
        sys.argv, sys.path[0] = ["-c", *rest[1:]], ""
        main = sys.modules["__main__"] = types.ModuleType("__main__")
        exec(compile(rest[0], "<string>", "exec"), main.__dict__)  # noqa: S102 (what the tests ask for)
    else:
        sys.argv, sys.path[0] = [first, *rest], str(Path(first).parent)
        runpy.run_path(first, run_name="__main__")


if __name__ == "__main__":
    for library in LIBRARIES:
        with contextlib.suppress(ImportError):
            importlib.import_module(library)
    become(next_order(socket.socket(fileno=int(sys.argv[1]))))
