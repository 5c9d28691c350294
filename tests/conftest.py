"""Fixtures of all layers. See tests/README.md for who uses which."""

import asyncio
import gc
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import support
from steadydancer.tools import comfyui as comfyui_copy
from steadydancer.tools.problem import Problem

LAYERS = ("unit", "exhaustive", "parts", "contract", "e2e", "browser")
# A developer's own settings must not decide whether a test passes.
PACKAGE_VARIABLES = ("STEADYDANCER_", "ENABLE_", "DWPOSE_", "TURBO_", "R2_", "AWS_", "WAN_", "CIVITAI_", "HF_", "GPU_")
FAILED = pytest.StashKey[bool]()
servers = []


def pytest_addoption(parser):
    parser.addoption("--update-snapshot", action="store_true", help="store what /object_info says of our nodes now")
    parser.addoption(
        "--this-process", action="store_true", help="run tests that want a process of their own in this one"
    )
    parser.addoption("--update-thumbnails", action="store_true", help="make the screenshots the templates' pictures")


def pytest_configure(config):
    config.failed_key = FAILED
    config.addinivalue_line("markers", "own_process: runs in a process of its own, whose memory ends with it")
    # A shell's background job has Ctrl-C switched off, and so would the programs that tests start and stop by it.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    # Before anything imports torch: beside other programs, threads that spin while they wait take most of the time.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    # Before anything imports Triton, whose own functions are made for a GPU or for its interpreter.
    if not shutil.which("nvidia-smi"):
        os.environ["TRITON_INTERPRET"] = "1"
    for name in [name for name in os.environ if name.startswith(PACKAGE_VARIABLES)]:
        del os.environ[name]


def pytest_collection_modifyitems(items):
    """Quick layers first. Units go before anything that puts ComfyUI on sys.path."""

    def layer(item) -> int:
        folder = item.path.relative_to(support.TESTS).parts[0]
        return LAYERS.index(folder) if folder in LAYERS else len(LAYERS)

    items.sort(key=layer)


def pytest_collection_finish():
    """What the libraries made on import stays: the collector need not look through it again and again."""
    gc.collect()
    gc.freeze()


def pytest_runtest_setup(item):
    for server in servers:
        server.revive()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_teardown(item, nextitem):
    """No model outlives its file, and no server with settings of its own: all of them together would fill the memory."""
    result = yield
    if nextitem is None or nextitem.path != item.path:
        for server in servers:
            if server.flags or server.variables:
                server.stop()
            elif server.alive():
                server.free()
        if "comfy.model_management" in sys.modules:
            sys.modules["comfy.model_management"].unload_all_models()
            gc.collect()
    return result


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem):
    """Runs a test marked `own_process` there, and is silent where it passes."""
    if pyfuncitem.get_closest_marker("own_process") is None or pyfuncitem.config.getoption("--this-process"):
        return None
    command = [sys.executable, "-c", "import pytest, sys; sys.exit(pytest.main(sys.argv[1:]))"]
    done = subprocess.run(
        [*command, pyfuncitem.nodeid, "--this-process", "-p", "no:cacheprovider"],
        cwd=support.ROOT,
        capture_output=True,
        text=True,
        errors="replace",
    )
    if done.returncode:
        pytest.fail(f"In its own process:\n{done.stdout}{done.stderr}", pytrace=False)
    return True


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item, call):
    report = yield
    if report.failed:
        item.stash[FAILED] = True
        for server in servers:
            if server in item.funcargs.values():
                report.sections.append((f"ComfyUI's log, {' '.join(server.flags)}", server.log_tail()))
    return report


@pytest.fixture(scope="session")
def comfyui_path() -> Path:
    """The ComfyUI that dev.py finds."""
    try:
        return comfyui_copy.find()
    except Problem as problem:
        pytest.fail(str(problem))


@pytest.fixture(scope="session")
def comfyui(comfyui_path, tmp_path_factory) -> Path:
    """ComfyUI in this process, on the CPU, with our model classes registered, for tests that call comfy.* directly.

    Its models, input and output folders lie in the folder that is returned.
    """
    base = tmp_path_factory.mktemp("in-process")
    sys.path.insert(0, str(comfyui_path))
    from comfy.cli_args import args

    args.cpu = args.fp32_text_enc = True  # as support/server.py starts it
    args.disable_api_nodes = True
    args.base_directory = str(base)

    import folder_paths
    import steadydancer
    from server import PromptServer

    for folder in (
        "models/diffusion_models",
        "models/vae",
        "models/text_encoders",
        "models/clip_vision",
        "models/loras",
    ):
        (base / folder).mkdir(parents=True)
    for folder in (folder_paths.get_input_directory(), folder_paths.get_output_directory()):
        Path(folder).mkdir(exist_ok=True)

    async def start() -> None:
        PromptServer(asyncio.get_running_loop())  # nodes send their progress lines to its one instance
        extension = await steadydancer.comfy_entrypoint()
        await extension.on_load()
        await extension.get_node_list()

    asyncio.run(start())  # its loop is closed then: what nodes say is heard by nobody, as in a script
    gc.freeze()
    return base


@pytest.fixture
def own_models(comfyui, tmp_path, monkeypatch) -> Path:
    """An empty models folder, where `comfyui` looks while this test runs: what others left there decides nothing."""
    import folder_paths

    for kind, (_, extensions) in list(folder_paths.folder_names_and_paths.items()):
        paths = [str(tmp_path / "models" / kind)]
        monkeypatch.setitem(folder_paths.folder_names_and_paths, kind, (paths, extensions))
    return tmp_path / "models"


@pytest.fixture(scope="session")
def start_comfy(comfyui_path, tmp_path_factory):
    """start_comfy(*flags, variables={}) → a running `support.server.Server`; equal calls share one.

    One with flags or variables is stopped at the end of its file, the plain one at the end of the session; stop one earlier
    with `.stop()` and the next call starts afresh.
    """
    from support.server import Server

    def start(*flags: str, variables: dict[str, str] | None = None) -> Server:
        for server in servers:
            if server.flags == flags and server.variables == (variables or {}) and server.alive():
                return server
        base = tmp_path_factory.mktemp("comfyui")
        server = Server(comfyui_path, base, flags, variables)
        servers.append(server)
        return server.start()

    yield start
    for server in servers:
        server.stop()


@pytest.fixture(scope="session")
def comfy_server(start_comfy):
    """The session's ComfyUI server: `comfy_server.run(prompt)`, `.object_info()`, `.events()`, …"""
    return start_comfy()
