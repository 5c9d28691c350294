"""What is wrong in this machine's network: proxies, certificates, no way out."""

import logging
import traceback

import pytest
from steadydancer.catalog.catalog import Source
from steadydancer.loaders.download.errors import DownloadError
from steadydancer.loaders.download.fetch import ensure
from support.downloads import DATA, HASTY, TOKEN, model_file, on_disk
from support.hub import Proxy, certificate

# What is wrong on this machine: (variables, what the user reads). {…} are the servers of the test below.
MACHINE = {
    "SOCKS proxy, no package": ({"ALL_PROXY": "socks5://127.0.0.1:9"}, "ALL_PROXY names a SOCKS proxy"),
    "SOCKS proxy for http, no package": ({"http_proxy": "socks5h://127.0.0.1:9"}, "http_proxy names a SOCKS proxy"),
    "proxy of no kind": ({"HTTP_PROXY": "ftp://127.0.0.1:9"}, "the proxy in HTTP_PROXY is not an address"),
    "proxy without a host": ({"all_proxy": "http://"}, "the proxy in all_proxy is not an address"),
    "proxy with a word for a port": ({"http_proxy": "proxy.example:port"}, "the proxy in http_proxy is not an address"),
    "proxy wants a login": ({"http_proxy": "{407}"}, r"the proxy 127.0.0.1:\d+ \(from http_proxy\) wants a name"),
    "proxy wants a login for https": (
        {"https_proxy": "{407}", "HF_ENDPOINT": "https://hub.example"},
        r"the proxy 127.0.0.1:\d+ \(from https_proxy\) wants a name",
    ),
    "proxy lets nothing through": (
        {"HTTPS_PROXY": "{403}", "HF_ENDPOINT": "https://hub.example"},
        "the proxy in HTTPS_PROXY does not let hub.example through",
    ),
    "endpoint without scheme": (
        {"HF_ENDPOINT": "hf-mirror.example"},
        "HF_ENDPOINT is 'hf-mirror.example', which is not",
    ),
    "endpoint of another kind": ({"HF_ENDPOINT": "ftp://mirror.example"}, "HF_ENDPOINT is 'ftp://mirror.example'"),
    "endpoint with a query": (
        {"HF_ENDPOINT": "http://127.0.0.1:9/?a=1"},
        r"HF_ENDPOINT is 'http://127.0.0.1:9/\?a=1', which",
    ),
    "endpoint with a blank": ({"HF_ENDPOINT": "https://hf mirror.example"}, "HF_ENDPOINT is 'https://hf mirror"),
    "endpoint with a word for a port": ({"HF_ENDPOINT": "http://mirror.example:port"}, "HF_ENDPOINT is"),
    "endpoint with a password": (
        {"HF_ENDPOINT": f"https://me:{TOKEN}@mirror.example"},
        "HF_ENDPOINT is 'mirror.example'",
    ),
    "token with a line break": ({"HF_TOKEN": f"{TOKEN} \x1b[0m"}, "The token in HF_TOKEN holds a blank"),
    "token with a letter of no alphabet": ({"HF_TOKEN": f"{TOKEN}\udcff"}, "The token in HF_TOKEN holds"),
    "own certificate": ({"HF_ENDPOINT": "{own}"}, r"the certificate of 127.0.0.1:\d+ is not accepted \(self.signed"),
    "expired certificate": (
        {"HF_ENDPOINT": "{expired}", "REQUESTS_CA_BUNDLE": "{expired.pem}"},
        r"is not accepted \(certificate has expired\)",
    ),
    "certificate for another host": (
        {"HF_ENDPOINT": "{other}", "REQUESTS_CA_BUNDLE": "{own.pem}"},
        r"is not accepted \(Hostname mismatch",
    ),
    "certificates that are not there": (
        {"HF_ENDPOINT": "{own}", "REQUESTS_CA_BUNDLE": "{none.pem}"},
        "the certificates that REQUESTS_CA_BUNDLE names cannot be read",
    ),
    "certificates that are none": (
        {"HF_ENDPOINT": "{own}", "REQUESTS_CA_BUNDLE": __file__},
        "the certificates that REQUESTS_CA_BUNDLE names cannot be read",
    ),
    "https asked of http": ({"HF_ENDPOINT": "{plain}"}, r"127.0.0.1:\d+ does not speak https"),
}


@pytest.mark.parametrize(("variables", "sentence"), MACHINE.values(), ids=MACHINE)
def test_faults_of_this_machine(hub, models, tmp_path, monkeypatch, caplog, clean_environment, variables, sentence):
    proxies = {str(status): Proxy(status) for status in (403, 407)}
    own, expired = certificate(tmp_path / "own.pem"), certificate(tmp_path / "expired.pem", days=-1)
    places = {name: proxy.address for name, proxy in proxies.items()} | {
        "own": hub.listen("hub", own),
        "expired": hub.listen("hub", expired),
        "plain": hub.endpoint.replace("http://", "https://"),
    }
    places["other"] = places["own"].replace("127.0.0.1", "localhost")
    places |= {f"{name}.pem": str(tmp_path / f"{name}.pem") for name in ("own", "expired", "none")}
    for name, value in variables.items():
        monkeypatch.setenv(name, places.get(value[1:-1], value) if value.startswith("{") else value)
    with pytest.raises(DownloadError, match=sentence) as caught, caplog.at_level(logging.DEBUG):
        ensure(model_file(), models)  # the patience of a real download: a second attempt would take its time
    for proxy in proxies.values():
        proxy.stop()
    assert "in a row" not in str(caught.value) and "connection was lost" not in str(caught.value)
    assert str(caught.value) in caplog.text
    assert len(hub.requests) + sum(len(proxy.asked) for proxy in proxies.values()) <= 1
    everything = caplog.text + "".join(traceback.format_exception(caught.value))
    assert TOKEN not in everything and "again in" not in caplog.text
    assert on_disk(models) == []


def test_a_company_certificate_in_its_variable_is_enough(hub, models, tmp_path, monkeypatch, clean_environment):
    own = certificate(tmp_path / "own.pem")
    monkeypatch.setenv("HF_ENDPOINT", hub.listen("hub", own))
    hub.cdn = hub.listen("cdn", own)
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(own))
    assert ensure(model_file(), models, retries=HASTY).read_bytes() == DATA


def test_a_proxy_that_is_not_there_is_named_and_tried_again(hub, models, monkeypatch, clean_environment):
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    with pytest.raises(DownloadError, match="the proxy in http_proxy cannot be reached, 3 times in a row"):
        ensure(model_file(), models, retries=HASTY)
    busy = Proxy(503)
    monkeypatch.setenv("https_proxy", busy.address)
    monkeypatch.setenv("HF_ENDPOINT", "https://hub.example")
    with pytest.raises(DownloadError, match="the proxy in https_proxy answered 503, 3 times in a row"):
        ensure(model_file(), models, retries=HASTY)
    busy.stop()
    assert busy.asked == [("CONNECT", "hub.example:443")] * 3


def test_offline_says_which_file_to_place_where(hub, models, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(DownloadError) as caught:
        ensure(model_file(gb=16.4), models)
    text = str(caught.value)
    assert str(models.models_dir / "vae" / "toy.safetensors") in text
    assert f"{hub.endpoint}/owner/toy/resolve/main/sub/toy.safetensors" in text and "16.4 GB" in text
    assert hub.requests == []
    quant = model_file(name="", sources=(Source("pattern", "owner/toy", patterns=("*-Q4_K_M[_.]*gguf",)),))
    with pytest.raises(DownloadError) as caught:
        ensure(quant, models)
    assert f"Place a file named like *-Q4_K_M_*gguf into {models.models_dir / 'vae'} (" in str(caught.value)


def test_without_a_network_it_says_so_after_two_tries_and_where_to_put_the_file(models, monkeypatch):
    monkeypatch.setenv("HF_ENDPOINT", "http://no-such-host.invalid")
    with pytest.raises(DownloadError) as raised:
        ensure(model_file(), models, retries=HASTY)
    said = str(raised.value)
    assert "the server's name is not known, 2 times in a row" in said
    assert (
        "models/vae by hand" in said
        and "http://no-such-host.invalid/owner/toy/resolve/main/sub/toy.safetensors" in said
    )
    quant = model_file(
        name="", sources=(Source("pattern", "owner/toy", patterns=("*-fixed.gguf", "*-Q4_K_M[_.]*gguf")),)
    )
    with pytest.raises(
        DownloadError, match=r"or put a file named like \*-Q4_K_M_\*gguf into models/vae by hand, from "
    ):
        ensure(quant, models, retries=HASTY)
