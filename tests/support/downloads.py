"""Files that are downloaded in tests, and what is on the disk then."""

import hashlib
import json
import re
import shutil
from dataclasses import replace

from steadydancer.base.retry import RetryPolicy
from steadydancer.catalog.catalog import ModelFile, Source
from steadydancer.loaders.download.places import RECORD, Places

HASTY = RetryPolicy(attempts=3, first=0.02, limit=0.05, timeout=2)
ENDLESS = RetryPolicy(timeout=3600)  # nothing but Cancel ends a wait
TOKEN = "hf_canary_0123456789"


def safetensors(values: int, seed: int = 1) -> bytes:
    """A file in the safetensors layout: `values` float16 numbers, all bytes different enough to catch a misplaced chunk."""
    header = json.dumps({"w": {"dtype": "F16", "shape": [values], "data_offsets": [0, 2 * values]}}).encode()
    body = hashlib.shake_256(str(seed).encode()).digest(2 * values)
    return len(header).to_bytes(8, "little") + header + body


DATA = safetensors(2_500_000)


def model_file(**changes) -> ModelFile:
    file = ModelFile(
        id="toy",
        family="toy",
        role="vae",
        folder="vae",
        name="toy.safetensors",
        format="safetensors",
        licence="MIT",
        confirmed="test",
        sources=(Source("hub", "owner/toy", path="sub/toy.safetensors"),),
        bytes=None,
        sha256="",
        gb=0.005,
        full_precision=False,
    )
    return replace(file, **changes)


def on_disk(models: Places) -> list[str]:
    """Every file that was left, but for records and locks; a hash in a name as one star."""
    names = (path.name for path in models.models_dir.rglob("*") if path.is_file())
    return sorted(
        re.sub("wrong-.*", "wrong-*", name) for name in names if name != RECORD and not name.endswith(".lock")
    )


def visible(models: Places) -> list[str]:
    """Every file that a model list would show."""
    return sorted(path.name for path in models.models_dir.rglob("*.safetensors"))


TOY, PART, NOTES = "toy.safetensors", "toy.safetensors.part", "toy.safetensors.part.json"
RESUMED = [PART, NOTES]
NEW = safetensors(2_500_000, seed=7)
AFTER = 1_000_000  # bytes of the old version that have left
QUANTS = Source("pattern", "owner/toy", patterns=("sub/*.safetensors",))


def disk(total: int, free: int):
    """What shutil.disk_usage would say of such a disk."""
    return lambda path: shutil._ntuple_diskusage(total, total - free, free)


def toys(hub, count: int, **changes) -> list[ModelFile]:
    """Several files of DATA's size, published."""
    for i in range(count):
        hub.put("owner/toy", f"{i}.safetensors", DATA)
    sources = [(Source("hub", "owner/toy", path=f"{i}.safetensors"),) for i in range(count)]
    return [model_file(id=str(i), name=f"{i}.safetensors", sources=sources[i], **changes) for i in range(count)]
