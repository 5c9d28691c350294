"""The ComfyUI server that a command talks to: its address, the login to it, and what is wrong when it does not answer as one."""

import base64
import http.client
import ipaddress
import json
import re
import socket
import ssl
import urllib.error
import urllib.request
from collections.abc import Sequence
from typing import Any
from urllib.parse import quote, unquote, urlsplit

AGENT = "SteadyDancer"  # front ends of the usual kind refuse the name by which Python's urllib goes
HEADER = re.compile(r"([!#$%&'*+.^_`|~0-9A-Za-z-]+): *([\x20-\x7e\xa0-\xff]*)")
TIMEOUT = 30  # seconds of silence
LARGEST = 256 << 20  # bytes of an answer; the record of a run is far shorter


class Trouble(RuntimeError):
    """The server cannot be talked to. The text is for the user."""


class Stay(urllib.request.HTTPRedirectHandler):
    """Where a redirect leads to, mostly a login page, nothing is answered as ComfyUI does, and the login would go along."""

    def redirect_request(self, *_: Any) -> None:
        """None: the redirect is not followed."""
        return None


class Server:
    """ComfyUI's HTTP interface at an address.

    `address` is shown to the user and holds neither the login nor the query that the user gave with it.
    Raises ValueError, without saying what was given, for an address or a header that cannot be.
    """

    def __init__(self, address: str, headers: Sequence[str] = ()) -> None:
        scheme, rest = address.strip().split("://", 1) if "://" in address else ("http", address.strip())
        try:
            parts = urlsplit(f"{scheme.lower()}://{rest}")
            self.host, port = parts.hostname or "", parts.port
            host = f"[{self.host}]" if ":" in self.host else self.host.encode("idna").decode()
        except ValueError as err:
            raise ValueError(f"{BAD_ADDRESS} Its host or port cannot be read.") from err
        if (
            "@" in parts.path + parts.query + parts.fragment
        ):  # a password was cut in two, and half of it must not be shown
            raise ValueError(f"{BAD_ADDRESS} Write / ? # @ in a login as %2F %3F %23 %40.")
        if parts.scheme not in ("http", "https") or not re.fullmatch(r"[\[\]\w.:%-]+", host):
            raise ValueError(f"{BAD_ADDRESS} It needs http or https and a host.")
        self.address = (
            f"{parts.scheme}://{host}{f':{port}' if port else ''}{quote(parts.path.rstrip('/'), safe='/%:+~')}"
        )
        self.query = quote(parts.query, safe="=&%/:+,")
        self.headers = {"User-Agent": AGENT}
        if parts.username is not None:
            login = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
            self.headers["Authorization"] = "Basic " + base64.b64encode(login.encode()).decode()
        for header in headers:
            found = HEADER.fullmatch(header.strip())
            if not found:
                raise ValueError("--header: write it as 'Name: value', in one line of plain letters.")
            self.headers[found[1].title()] = found[2]
        direct = is_this_machine(self.host) or urllib.request.proxy_bypass(self.host)
        proxy = "" if direct else urllib.request.getproxies().get(parts.scheme, "")
        self.proxy = f"http://{proxy}" if proxy and "://" not in proxy else proxy or None
        self.proxy_host = proxy_host(self.proxy) if self.proxy else ""
        proxies = {parts.scheme: self.proxy} if self.proxy else {}
        self.opener = urllib.request.build_opener(urllib.request.ProxyHandler(proxies), Stay)

    def link(self, path: str) -> str:
        """The address of one of ComfyUI's paths."""
        query = "&".join(filter(None, (urlsplit(path).query, self.query)))
        return self.address + urlsplit(path).path + (f"?{query}" if query else "")

    def request(self, path: str, body: dict | None = None) -> tuple[int, dict]:
        """Status, 200 or 400, and answer of a GET, or of a POST with a body.

        Raises Trouble when there is no answer, or one that ComfyUI does not give.
        """
        data, headers = None, self.headers
        if body is not None:
            data, headers = json.dumps(body).encode(), {**headers, "Content-Type": "application/json"}
        try:
            with self.opener.open(urllib.request.Request(self.link(path), data, headers), timeout=TIMEOUT) as answer:
                status, text = answer.status, answer.read(LARGEST)
                if answer.length and len(text) < LARGEST:  # read() alone would have said so
                    raise http.client.IncompleteRead(text)
        except urllib.error.HTTPError as err:
            with err:
                if err.code != 400:
                    raise Trouble(self.refusal(err)) from err
                status, text = 400, body_of(err)
        except (OSError, ValueError, http.client.HTTPException) as err:
            raise Trouble(self.silence(err)) from err
        try:
            found = json.loads(text or b"{}")
        except (ValueError, RecursionError) as err:
            kind = "a web page" if b"<" in text[:200] else "something else"
            raise self.odd(f"it sends {kind}") from err
        if not isinstance(found, dict):
            raise self.odd("it sends something else")
        return status, found

    def odd(self, why: str) -> Trouble:
        """An answer that ComfyUI does not give."""
        return Trouble(
            f"{self.address} does not answer as ComfyUI does: {why}. Look at the address; where a login stands before "
            "ComfyUI, give it as user:password@ in the address or with --header."
        )

    def refusal(self, err: urllib.error.HTTPError) -> str:
        """What a status other than 200 and 400 means."""
        said = f"{self.address} refused with {err.code}" + (f" ({err.reason})." if err.reason else ".")
        if 300 <= err.code < 400:
            to = urlsplit(err.headers.get("Location", ""))
            where = f"{to.scheme}://{to.hostname}{to.path}" if to.hostname else to.path
            return (
                f"{self.address} sends us on to {where or 'nowhere'}. Where that is a login page, give the login as "
                "user:password@ in the address or with --header; else give that address with --server."
            )
        if err.code in (401, 403):
            return f"{said} Give a login: user:password@ in the address, or --header 'Authorization: …'."
        if err.code == 407:
            return f"{said} That is the proxy's word: put its login into the variable http_proxy or https_proxy."
        if err.code in (404, 405):
            return f"{said} ComfyUI is not at this address: look at its port and path."
        if err.code == 413:
            return f"{said} What stands before ComfyUI takes no prompt of this size: raise its limit."
        if err.code in (502, 503, 504):
            return f"{said} What stands before ComfyUI cannot reach it: start ComfyUI, or wait until it is up."
        if err.code >= 500:
            return f"{said} ComfyUI's own log says why."
        return f"{said} Look at the address."

    def silence(self, err: Exception) -> str:
        """Why there was no answer, or half of one."""
        cause = err.reason if isinstance(err, urllib.error.URLError) else err
        start, advice = f"No ComfyUI answers at {self.address}: ", "Start it, or give its address with --server."
        if self.proxy:
            start = f"No ComfyUI answers at {self.address} through the proxy {self.proxy_host}: "
            advice = "Where no proxy is needed for it, name its host in the variable no_proxy."
        if isinstance(cause, TimeoutError):
            return f"{start}it was silent for {TIMEOUT} seconds. {advice}"
        if isinstance(cause, ssl.SSLCertVerificationError):
            return f"{start}its certificate is not valid for this machine. Give the name that the certificate is for."
        if isinstance(cause, ssl.SSLError):
            return f"{start}it does not speak https. Write http:// in --server."
        if isinstance(cause, socket.gaierror):
            return f"{start}the name is not known. Look at the address."
        if isinstance(cause, http.client.IncompleteRead):
            return f"{start}it closed the connection in the middle. Try again, and look at its log."
        if isinstance(cause, http.client.RemoteDisconnected):
            return f"{start}it closed the connection without a word. Where it wants https, write https:// in --server."
        if isinstance(cause, http.client.HTTPException):
            return f"{start}what is there does not speak HTTP. Look at the port."
        if isinstance(cause, ConnectionRefusedError):
            return f"{start}nothing listens there. {advice}"
        words = getattr(cause, "strerror", None) or str(cause)
        return f"{start}{words[:1].lower()}{words[1:].rstrip('.')}. {advice}"


BAD_ADDRESS = (
    "--server: write the address as http://HOST:PORT, with user:password@ before the host where it wants a login."
)


def proxy_host(proxy: str) -> str:
    """The host of a proxy's address, which may hold a login. Raises ValueError for one that urllib cannot use."""
    try:
        parts = urlsplit(proxy)
    except ValueError:
        parts = urlsplit("")
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError(
            "The proxy in the variable http_proxy or https_proxy is of a kind that this command cannot use. "
            "Give an http:// one, or name the server's host in the variable no_proxy."
        )
    return parts.hostname


def is_this_machine(host: str) -> bool:
    """Whether a host is this machine itself, which no proxy can reach for us."""
    host = host.partition("%")[0].rstrip(".")
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return False
    address = getattr(address, "ipv4_mapped", None) or address
    return address.is_loopback or address.is_unspecified


def body_of(err: urllib.error.HTTPError) -> bytes:
    """What came with a refusal, nothing where it broke off."""
    try:
        return err.read(LARGEST)
    except (OSError, http.client.HTTPException):
        return b""
