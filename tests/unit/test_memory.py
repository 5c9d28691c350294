"""RAM inside containers: the limits as Linux writes them into files, both versions."""

import psutil
import pytest
from steadydancer.machine.memory import free_ram, total_ram

GB = 2**30
STAT = {
    2: f"anon {GB}\nfile {GB}\ninactive_file {GB // 2}\nactive_file {GB // 4}\n",
    1: f"cache 0\ninactive_file 0\nactive_file 0\ntotal_inactive_file {GB // 2}\ntotal_active_file {GB // 4}\n",
}


def container(folder, version: int, limit: str, used: int):
    names = ("memory.max", "memory.current") if version == 2 else ("memory.limit_in_bytes", "memory.usage_in_bytes")
    place = folder if version == 2 else folder / "memory"
    place.mkdir(exist_ok=True)
    for name, text in (*zip(names, (limit, str(used)), strict=True), ("memory.stat", STAT[version])):
        (place / name).write_text(text.strip() + "\n")
    return folder


@pytest.mark.parametrize("version", [1, 2])
def test_a_containers_limit_counts_and_its_file_cache_does_not(tmp_path, version, monkeypatch):
    machine = psutil.virtual_memory()._replace(total=128 * GB, available=64 * GB)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: machine)
    folder = container(tmp_path, version, str(4 * GB), 3 * GB)
    assert free_ram(folder) == GB + GB // 2 + GB // 4
    assert total_ram(folder) == 4 * GB
    container(tmp_path, version, str(2 * GB), 3 * GB)
    assert free_ram(folder) == 0
    container(tmp_path, version, "max" if version == 2 else str(2**63 - 4096), 3 * GB)
    assert free_ram(folder) == 64 * GB
    assert total_ram(folder) == 128 * GB


def test_without_a_container_it_is_the_machines(tmp_path):
    assert free_ram(tmp_path) == pytest.approx(psutil.virtual_memory().available, rel=0.2)
