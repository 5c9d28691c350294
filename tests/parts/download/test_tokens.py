"""Who gets a token, what a refused one means, and that no address tells a secret."""

import logging
import traceback

import pytest
from steadydancer.catalog.catalog import Source
from steadydancer.loaders.download.errors import DownloadError
from steadydancer.loaders.download.fetch import ensure
from support.downloads import DATA, HASTY, QUANTS, TOKEN, model_file, on_disk
from support.hub import Fault


@pytest.mark.parametrize("kind", ["folder", "bytes"])
def test_a_token_file_that_cannot_be_read(hub, models, tmp_path, monkeypatch, kind):
    from huggingface_hub import constants

    path = tmp_path / "token"
    path.mkdir() if kind == "folder" else path.write_bytes(b"hf_\xff\xfe")
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(path))
    with pytest.raises(DownloadError, match=f"The token file {path} cannot be read: (is a directory|it is no text)"):
        ensure(model_file(), models)
    assert hub.requests == [] and on_disk(models) == []


TOKENS = ["HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "the token file"]


def log_in(monkeypatch, tmp_path, origin: str) -> str:
    """Puts the canary where `origin` says; returns how a sentence calls the place."""
    from huggingface_hub import constants

    if origin in TOKENS[:2]:
        monkeypatch.setenv(origin, TOKEN)
        return origin
    (tmp_path / "token").write_text(TOKEN)
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "token"))
    return f"the token file {tmp_path / 'token'}"


@pytest.mark.parametrize("status", [401, 403])
@pytest.mark.parametrize("origin", TOKENS)
@pytest.mark.parametrize("source", [model_file().sources[0], QUANTS], ids=["file", "listing"])
def test_a_refused_token_is_named_and_a_public_file_comes_without_it(
    hub, models, tmp_path, monkeypatch, caplog, source, origin, status
):
    place = log_in(monkeypatch, tmp_path, origin)
    hub.faults = {"toy.safetensors": Fault(token=status), "tree/main": Fault(token=status)}
    assert ensure(model_file(sources=(source,)), models, retries=HASTY).read_bytes() == DATA
    assert f"refuses the token in {place} when asked for toy.safetensors" in caplog.text
    assert TOKEN not in caplog.text
    assert ["authorization" in headers for _, _, _, headers in hub.asked("hub")][:2] == [True, False]


@pytest.mark.parametrize(
    ("fault", "sentence"),
    [
        (Fault(token=401, gated=True), r"refuses the token in HF_TOKEN.*licence must be accepted once"),
        (Fault(token=401, private=True), r"refuses the token in HF_TOKEN.*Without a token it answers 404"),
        (Fault(gated=True, members=True), r"accept it with the account of the token in HF_TOKEN"),
    ],
    ids=["gated", "private", "gated for this account"],
)
def test_a_token_that_does_not_open_the_file(hub, models, monkeypatch, fault, sentence):
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    hub.faults["toy.safetensors"] = fault
    with pytest.raises(DownloadError, match=sentence) as caught:
        ensure(model_file(), models, retries=HASTY)
    assert TOKEN not in "".join(traceback.format_exception(caught.value))
    assert on_disk(models) == []


def test_a_token_that_is_revoked_meanwhile(hub, models, monkeypatch, caplog):
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    hub.faults["toy.safetensors"] = Fault(token=401, token_revoked=True)
    assert ensure(model_file(), models, retries=HASTY).read_bytes() == DATA
    assert "refuses the token in HF_TOKEN" in caplog.text and TOKEN not in caplog.text
    (models.target(model_file())).unlink()
    hub.requests.clear()
    hub.faults["toy.safetensors"] = Fault(token=401, token_revoked=True, token_needed=True)
    with pytest.raises(DownloadError, match="refuses the token in HF_TOKEN"):
        ensure(model_file(), models, retries=HASTY)


def test_netrc_goes_to_nobody(hub, models, tmp_path, monkeypatch):
    (tmp_path / "netrc").write_text(f"machine 127.0.0.1 login me password {TOKEN}\ndefault login me password {TOKEN}\n")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    url = Source("url", f"{hub.endpoint}/owner/toy/resolve/main/sub/toy.safetensors")
    for source in (model_file().sources[0], QUANTS, url):
        ensure(model_file(sources=(source,)), models, retries=HASTY).unlink()
    assert hub.asked("cdn") and not any("authorization" in headers for _, _, _, headers in hub.requests)


def test_a_signed_address_is_in_no_log(hub, models, caplog):
    with caplog.at_level(logging.DEBUG), caplog.at_level(logging.DEBUG, "urllib3.connectionpool"):
        ensure(model_file(), models)
    assert "/blob/owner/toy/sub/toy.safetensors?" in caplog.text and "Signature" not in caplog.text


@pytest.mark.parametrize("fault", [Fault(statuses=(503,) * 99), Fault(unreachable=True)], ids=["503", "unreachable"])
def test_a_signed_address_that_a_plain_url_leads_to_is_in_no_error(hub, models, fault):
    hub.faults["toy.safetensors"] = fault
    source = Source("url", f"{hub.endpoint}/owner/toy/resolve/main/sub/toy.safetensors")
    with pytest.raises(DownloadError, match="3 times in a row") as caught:
        ensure(model_file(sources=(source,)), models, retries=HASTY)
    assert "Signature" not in "".join(traceback.format_exception(caught.value))


def test_the_token_goes_to_its_host_only_and_into_no_text(hub, models, monkeypatch, caplog):
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    hub.faults["toy.safetensors"] = Fault(gated=True, statuses=(503,))
    with caplog.at_level(logging.DEBUG):
        path = ensure(model_file(), models, retries=HASTY)
    assert path.read_bytes() == DATA
    assert all(TOKEN in headers["authorization"] for _, _, _, headers in hub.asked("hub"))
    assert hub.asked("cdn") and not any("authorization" in headers for _, _, _, headers in hub.asked("cdn"))
    assert not any(TOKEN in path for _, _, path, _ in hub.requests)
    path.unlink()
    hub.faults["toy.safetensors"] = Fault(statuses=(403,) * 99)
    with pytest.raises(DownloadError) as caught, caplog.at_level(logging.DEBUG):
        ensure(model_file(), models, retries=HASTY)
    everything = caplog.text + "".join(traceback.format_exception(caught.value))
    everything += "".join(path.read_text(errors="replace") for path in models.models_dir.rglob("*") if path.is_file())
    assert TOKEN not in everything


def test_civitai_key_goes_in_a_header(hub, models, civitai, caplog):
    with caplog.at_level(logging.DEBUG):
        assert ensure(civitai, models).read_bytes() == DATA
    assert all(headers["authorization"] == f"Bearer {TOKEN}" for _, _, _, headers in hub.requests)
    assert TOKEN not in caplog.text and not any(TOKEN in path for _, _, path, _ in hub.requests)


def test_a_refused_civitai_key(hub, models, civitai, caplog):
    hub.faults = {"77": Fault(token=401)}
    assert ensure(civitai, models, retries=HASTY).read_bytes() == DATA
    assert "refuses the token in CIVITAI_API_KEY" in caplog.text and TOKEN not in caplog.text
