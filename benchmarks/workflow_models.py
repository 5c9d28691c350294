"""Which templates of ComfyUI name their models completely, and which cannot be served: a table over all of them.

    python dev.py run -- python benchmarks/workflow_models.py [--templates FOLDER] [--fetch]

Nothing is downloaded: addresses are read and judged as `cli.py download --template NAME` does. `--fetch` fetches each file
that they name, as small ones, from a server on this machine, and counts what arrives under the name that its loader holds.
"""

import argparse
import collections
import importlib.util
import os
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.append(str(ROOT / "tests"))

import support  # noqa: E402, F401  (loads this folder as the package)
from steadydancer.catalog.catalog import catalogue  # noqa: E402
from steadydancer.loaders.download import workflow  # noqa: E402
from steadydancer.loaders.download.fetch import ensure  # noqa: E402
from steadydancer.loaders.download.places import Places  # noqa: E402


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--templates", type=Path, help="default: those of the installed package")
    parser.add_argument("--fetch", action="store_true")
    args = parser.parse_args()
    installed = importlib.util.find_spec(workflow.PACKAGE)
    folder = args.templates or Path(installed.submodule_search_locations[0], "templates")
    found = read_all(folder)
    print_table(found)
    if args.fetch:
        fetch_all(found)


def read_all(folder: Path) -> dict[str, workflow.Named]:
    found = {}
    for path in sorted(folder.glob("*.json")):
        try:
            graph = workflow.read(path)
        except ValueError:
            continue  # an index, or a list of authors
        found[path.stem] = workflow.named(graph, lambda family: catalogue().families[family].default)
    return found


def print_table(found: dict[str, workflow.Named]) -> None:
    rows = collections.Counter()
    for named in found.values():
        kind = "not complete" if named.left else "complete" if named.files else "no model files"
        rows[kind] += 1
        rows["with files that only muted or bypassed nodes name"] += bool(named.off)
    print(f"{len(found):>5}  templates")
    for kind, count in rows.items():
        print(f"{count:>5}  {kind}")
    files = {file.id: file for named in found.values() for file in named.files}
    known = sum(file.id in catalogue().files for file in files.values())
    print(f"{len(files):>5}  files, {known} of them in the catalogue")
    for host, count in collections.Counter(source.kind for file in files.values() for source in file.sources).items():
        print(f"{count:>5}  addresses of the kind {host}")
    for name, named in found.items():
        for entry in named.left:
            print(f"{name}: {entry.name} {entry.why}")


def fetch_all(found: dict[str, workflow.Named]) -> None:
    from support.hub import Hub

    files = {file.id: file for named in found.values() for file in named.files}
    header = b'{"w":{"dtype":"U8","shape":[8],"data_offsets":[0,8]}}'
    with tempfile.TemporaryDirectory() as folder:
        hub = Hub(Path(folder, "hub"))
        os.environ["HF_ENDPOINT"] = hub.endpoint
        for file in files.values():
            for source in file.sources:
                hub.put(source.where, source.path, len(header).to_bytes(8, "little") + header + bytes(8))
        where, arrived = Places(Path(folder, "models")), 0
        for file in files.values():
            path = ensure(file, where)
            arrived += path == Path(folder, "models", file.folder, file.name)
        hub.stop()
    print(f"{arrived:>5}  of {len(files)} arrived in the folder and under the name that their loader asks for")


if __name__ == "__main__":
    main()
