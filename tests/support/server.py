"""A real ComfyUI on the CPU, started with folders of its own and stopped with the tests."""

import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
from pathlib import Path

from steadydancer.tools.comfyui import link_package

from . import TESTS, warm
from .client import Client

START_SECONDS = 180
READ_ON_IMPORT = ("HF_", "PYTHON")  # variables that would come too late for libraries that are imported already


class Server(Client):
    """Runs `comfyui` with base folder `base` and the given extra flags, from `start()` to `stop()`.

    The package and the tests' own node pack (tests/support/nodes_for_tests) are in its custom_nodes.
    """

    def __init__(self, comfyui: Path, base: Path, flags: tuple[str, ...] = (), variables: dict[str, str] | None = None):
        super().__init__(f"http://127.0.0.1:{free_port()}", base)
        self.comfyui = comfyui
        self.flags = flags
        self.variables = variables or {}
        self.log_file = base / "comfyui.log"
        self.process = None
        self.prepare = None  # called in the new process before ComfyUI is

    def start(self) -> "Server":
        for folder in ("input", "output", "models"):
            (self.base_directory / folder).mkdir(parents=True, exist_ok=True)
        custom_nodes = self.base_directory / "custom_nodes"
        link_package(custom_nodes)
        shutil.copytree(TESTS / "support" / "nodes_for_tests", custom_nodes / "nodes_for_tests", dirs_exist_ok=True)
        # a CPU multiplies float32 in a third of the time of fp16, and CLIP-ViT-H is what takes longest here
        command = [str(self.comfyui / "main.py"), "--cpu", "--fp32-text-enc", "--disable-api-nodes"]
        command += ["--base-directory", str(self.base_directory), "--database-url", "sqlite:///:memory:"]
        command += ["--port", self.url.rpartition(":")[2], "--disable-auto-launch", *self.flags]
        env = {**os.environ, "AWS_CONFIG_FILE": os.devnull, **self.variables}
        with open(self.log_file, "ab") as log:
            if self.prepare or any(name.startswith(READ_ON_IMPORT) for name in self.variables):
                self.process = subprocess.Popen(
                    [sys.executable, *command],
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    env=env,
                    preexec_fn=self.prepare,
                )
            else:
                self.process = warm.start(command, env, log, log)
        end = time.monotonic() + START_SECONDS
        while time.monotonic() < end:
            if self.process.poll() is not None:
                raise RuntimeError(f"ComfyUI stopped while starting:\n{self.log_tail()}")
            try:
                self.get("/system_stats", timeout=5)
                return self
            except (urllib.error.URLError, OSError):
                time.sleep(0.1)
        self.stop()
        raise RuntimeError(f"ComfyUI did not answer in {START_SECONDS} s:\n{self.log_tail()}")

    def provide_models(self, *names: str) -> None:
        """Puts tiny weights into the server's model folders: "vae/wan_2.1_vae.safetensors", …"""
        from . import tiny  # needs torch, which a test without models does not

        tiny.provide(self.base_directory / "models", *names)

    def require_alive(self) -> None:
        """The web part goes on answering after the thread that runs prompts has died, so its last words are looked for."""
        if not self.alive():
            raise RuntimeError(f"ComfyUI's prompt worker has died:\n{self.log_tail()}")

    def alive(self) -> bool:
        return self.process is not None and self.process.poll() is None and "Exception in thread" not in self.log()

    def revive(self) -> None:
        """Starts a server anew that died in an earlier test, which has failed for it; one that was stopped stays so."""
        if self.process is not None and not self.alive():
            self.stop()
            self.log_file.replace(self.log_file.with_suffix(".died.log"))
            self.start()

    def stop(self) -> None:
        if self.process is None:
            return
        self.process.terminate()
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.process = None

    def log(self) -> str:
        return self.log_file.read_text("utf-8", errors="replace") if self.log_file.exists() else ""

    def log_tail(self, lines: int = 60) -> str:
        return "\n".join(self.log().splitlines()[-lines:])


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
