"""A hub with one small file, and a models folder."""

import hashlib
import json

import pytest
from steadydancer.catalog.catalog import Source
from steadydancer.loaders.download import transfer
from steadydancer.loaders.download.places import Places
from support.downloads import DATA, TOKEN, model_file
from support.hub import Hub


@pytest.fixture
def hub(tmp_path, monkeypatch):
    hub = Hub(tmp_path / "hub")
    hub.put("owner/toy", "sub/toy.safetensors", DATA)
    monkeypatch.setenv("HF_ENDPOINT", hub.endpoint)
    monkeypatch.setenv("HF_TOKEN_PATH", str(tmp_path / "no-token"))
    monkeypatch.setattr(transfer, "CHUNK", 1 << 20)
    yield hub
    hub.stop()


@pytest.fixture
def models(tmp_path):
    return Places(tmp_path / "models")


VARIABLES = [f"{scheme}_proxy" for scheme in ("http", "https", "all", "no")] + ["REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"]


@pytest.fixture
def clean_environment(monkeypatch):
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


@pytest.fixture
def civitai(hub, monkeypatch):
    """CivitAI's two addresses of version 77, on the hub."""
    from steadydancer.loaders.download import hub as publishers

    sha256 = hashlib.sha256(DATA).hexdigest().upper()
    listing = {"files": [{"name": "x.safetensors", "primary": True, "hashes": {"SHA256": sha256}}]}
    hub.put("api/v1", "model-versions/77", json.dumps(listing).encode())
    hub.put("api", "download/models/77", DATA)
    monkeypatch.setattr(publishers, "CIVITAI", hub.endpoint)
    monkeypatch.setenv("CIVITAI_API_KEY", TOKEN)
    return model_file(sources=(Source("civitai", "77"),))
