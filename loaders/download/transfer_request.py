"""One request of a download: who gets our token, where a redirect may lead, and whose fault a failure is."""

import importlib.util
import logging
import re
import ssl
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING
from urllib.parse import urljoin, urlsplit

from ...base import environment
from ...base.retry import TransientError
from .errors import NO_SUCH_NAME, DownloadError, printable, without_query

if TYPE_CHECKING:  # a laptop without it can still list and plan
    import requests

RETRIED = (408, 425, 429, 500, 502, 503, 504)
REDIRECTS = 10
HELP = "the table of certificates in the help of Download Models"


def send(
    session: "requests.Session",
    method: str,
    url: str,
    name: str,
    token: str = "",
    headers: dict | None = None,
    timeout: float = 30.0,
) -> "requests.Response":
    """The response to a request for the file `name`, its body not yet read. Redirects are followed.

    `token` is sent to the origin of `url` and to no other. Raises TransientError for what another attempt may not see,
    DownloadError for what it will.
    """
    quiet_libraries()
    home, history = origin(url), []
    while True:
        check_proxy(url, name)
        with told(url, name):
            response = session.request(
                method,
                url,
                headers={"Accept-Encoding": "identity", **(headers or {})},
                auth=authorisation(token if origin(url) == home else ""),
                timeout=(min(10.0, timeout), timeout),
                stream=True,
                allow_redirects=False,  # requests would look into ~/.netrc for every host on the way
            )
        place = response.headers.get("Location")
        if not (place and response.is_redirect) or (method == "HEAD" and described(response)):
            break
        response.close()
        history.append(response)
        url = next_address(url, place, name)
        if len(history) > REDIRECTS:
            raise DownloadError(f"{name} cannot be downloaded: {host(url)} leads in circles. Try again later.")
    response.history = history
    try:
        check_answer(response, name)
    except BaseException:
        response.close()
        raise
    return response


def authorisation(token: str) -> Callable[["requests.PreparedRequest"], "requests.PreparedRequest"]:
    """A requests auth that sends our token or nothing; without one, requests would look into ~/.netrc."""

    def sign(request: "requests.PreparedRequest") -> "requests.PreparedRequest":
        if token:
            request.headers["Authorization"] = f"Bearer {token}"
        return request

    return sign


def origin(url: str) -> tuple[str, str, int | None]:
    """Scheme, host and port of an address: what a token may be sent to, and to nothing else."""
    parts = urlsplit(url)
    with_port = parts.port or {"http": 80, "https": 443}.get(parts.scheme)
    return parts.scheme, (parts.hostname or "").lower(), with_port


def next_address(url: str, place: str, name: str) -> str:
    """Where a redirect leads."""
    with suppress(ValueError):
        found = urljoin(url, place)
        if origin(found)[0] in ("http", "https") and origin(found)[1]:
            return found
    raise DownloadError(f"{name} cannot be downloaded: {host(url)} redirects to something that is not a web address.")


def host(url: str) -> str:
    """The host and port of an address, for a sentence: no name, no password."""
    return printable(urlsplit(url).netloc.rpartition("@")[2])


def validator(response: "requests.Response") -> str:
    """What tells one version of a server's file from another; empty where the server does not say."""
    return response.headers.get("ETag") or response.headers.get("Last-Modified") or ""


def described(response: "requests.Response") -> bool:
    """Whether a redirect already says what the Hub says of a file: where it leads needs no question."""
    return "X-Linked-Size" in response.headers or "X-Linked-Etag" in response.headers


def check_answer(response: "requests.Response", name: str) -> None:
    """Raises where the answer is not the server's own: a proxy's, a login page's, an overloaded one's."""
    status, url = response.status_code, response.url
    if status == 407:
        raise DownloadError(f"{name} cannot be downloaded: {proxy_wants_login(url)}")
    if status in RETRIED:
        raise TransientError(f"the server answered {status}", response.headers.get("Retry-After"))
    page = response.headers.get("Content-Type", "").lower().startswith("text/html")
    if status == 511 or (status in (200, 206) and page and not name.lower().endswith((".html", ".htm"))):
        raise DownloadError(web_page(name, url))


def web_page(name: str, url: str) -> str:
    """What it means that a web page came where a file or a list was asked for."""
    return (
        f"{name} cannot be downloaded: {host(url)} answered with a web page in its place, mostly a login page: of this "
        "network (hotel, company) or of the site. Open the address in a browser on this machine and log in, or set "
        "HF_TOKEN or CIVITAI_API_KEY where the site wants an account. Then try again."
    )


# ---- proxies


def proxy_of(url: str) -> tuple[str, str]:
    """The proxy that requests takes for an address, and the setting that names it; empty without one."""
    from requests.utils import get_environ_proxies, select_proxy

    proxy = select_proxy(url, get_environ_proxies(url)) or ""
    scheme = urlsplit(url).scheme
    names = [name for base in (scheme, "all") for name in (f"{base}_proxy", f"{base}_proxy".upper())]
    return proxy, next((name for name in names if proxy and environment.text(name) == proxy), "the system's settings")


def check_proxy(url: str, name: str) -> None:
    """Raises DownloadError where the proxy is none, or is of a kind for which a package is missing."""
    proxy, setting = proxy_of(url)
    if not proxy:
        return
    parts = urlsplit(proxy if "://" in proxy else f"http://{proxy}")
    try:
        whole = bool(parts.hostname) and (parts.port is None or parts.port > 0)
    except ValueError:  # a port that is no number
        whole = False
    socks = parts.scheme in ("socks4", "socks4a", "socks5", "socks5h")
    if not whole or not (socks or parts.scheme in ("http", "https")):
        raise DownloadError(
            f"{name} cannot be downloaded: the proxy in {setting} is not an address. "
            "Write it like http://proxy.example:3128, or unset it."
        )
    if socks and importlib.util.find_spec("socks") is None:
        raise DownloadError(
            f"{name} cannot be downloaded: {setting} names a SOCKS proxy, and the Python package for it is missing. "
            "Install it with `pip install requests[socks]` in ComfyUI's Python, or unset the variable."
        )


def proxy_wants_login(url: str) -> str:
    """What to do about a proxy that answered 407, and where it is set."""
    proxy, setting = proxy_of(url)
    return (
        f"the proxy {host(proxy if '://' in proxy else f'http://{proxy}')} (from {setting}) wants a name and a password "
        "(407). Write them into it, like http://name:password@proxy.example:3128."
    )


# ---- failures


@contextmanager
def told(url: str, name: str) -> Iterator[None]:
    """Turns what the HTTP libraries raise into TransientError or DownloadError. Their own text may hold a signed address."""
    import requests
    import urllib3

    network = (requests.RequestException, urllib3.exceptions.HTTPError, ssl.SSLError, ConnectionError, TimeoutError)
    try:
        yield
    except network as err:
        raise fault(err, url, name) from None
    except OSError as err:  # requests looks for the file of certificates itself
        if "CA certificate bundle" not in str(err):
            raise
        raise DownloadError(no_certificates(name)) from None


def fault(err: Exception, url: str, name: str) -> Exception:
    """What a failed request means: TransientError where the network is to blame, else DownloadError with the cause."""
    import requests

    found = list(causes(err))
    texts = " ".join(f"{type(cause).__name__} {cause}" for cause in found)
    secure = next((cause for cause in found if isinstance(cause, ssl.SSLError)), None)
    if secure is not None and not isinstance(secure, ssl.SSLEOFError | ssl.SSLZeroReturnError | ssl.SSLSyscallError):
        return DownloadError(insecure(secure, url, name))
    if tunnel := re.search(r"Tunnel connection failed: (\d{3})", texts):
        return through_proxy(int(tunnel[1]), url, name)
    if isinstance(err, requests.exceptions.ProxyError):
        proxy, setting = proxy_of(url)
        return TransientError(f"the proxy in {setting} cannot be reached")
    if isinstance(err, ValueError):  # requests' errors of addresses and headers are
        return DownloadError(
            f"{name} cannot be downloaded: the address of {host(url) or 'its server'} cannot be used: "
            f"{printable(without_query(str(err)))}. Check HF_ENDPOINT and the proxy settings."
        )
    text = texts.lower()
    for sign, words in (
        ("timed out", "the server is silent"),
        ("timeout", "the server is silent"),
        ("refused", "the server refuses connections"),
        ("resolution", NO_SUCH_NAME),
        ("name or service", NO_SUCH_NAME),
        ("getaddrinfo", NO_SUCH_NAME),
        ("unreachable", "there is no way to the server"),
    ):
        if sign in text:
            return TransientError(words)
    return TransientError("the connection was lost")


def causes(err: BaseException) -> Iterator[BaseException]:
    """An error and those inside it, as requests and urllib3 wrap them."""
    seen: set[int] = set()
    waiting: list[object] = [err]
    while waiting:
        inner = waiting.pop(0)
        if isinstance(inner, BaseException) and id(inner) not in seen:
            seen.add(id(inner))
            yield inner
            waiting += [*inner.args, getattr(inner, "reason", None), inner.__cause__, inner.__context__]


def through_proxy(status: int, url: str, name: str) -> Exception:
    """The error for what a proxy itself answered to a request for a connection: Passing where another try may help."""
    if status == 407:
        return DownloadError(f"{name} cannot be downloaded: {proxy_wants_login(url)}")
    setting = proxy_of(url)[1]
    if status in RETRIED:
        return TransientError(f"the proxy in {setting} answered {status}")
    return DownloadError(
        f"{name} cannot be downloaded: the proxy in {setting} does not let {host(url)} through (it answered {status}). "
        "Ask whoever runs it, or place the file by hand."
    )


def insecure(err: ssl.SSLError, url: str, name: str) -> str:
    """Why no secure connection can be made: the next attempt would not make one either."""
    if isinstance(err, ssl.SSLCertVerificationError):
        why = printable(err.verify_message or "it cannot be checked").rstrip(".")
        return (
            f"{name} cannot be downloaded: the certificate of {host(url)} is not accepted ({why}). Check this machine's "
            "clock. Behind a company's proxy set REQUESTS_CA_BUNDLE to the file with the company's certificate: see "
            f"{HELP}."
        )
    if err.library in ("X509", "PEM"):
        return no_certificates(name)
    if "WRONG_VERSION_NUMBER" in str(err) or "HTTP_REQUEST" in str(err):
        proxy, setting = proxy_of(url)
        answers = f"the proxy in {setting} (try http:// in place of https://)" if proxy else host(url)
        return f"{name} cannot be downloaded: {answers} does not speak https. Check its address."
    why = (err.reason or "no reason given").replace("_", " ").lower()
    return (
        f"{name} cannot be downloaded: no secure connection to {host(url)} can be made ({why}). "
        "A proxy or a virus scanner on the way may be the cause."
    )


def no_certificates(name: str) -> str:
    """What to do where the list of certificates cannot be read, and which setting names it."""
    settings = [setting for setting in ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE") if environment.text(setting)]
    setting = settings[0] if settings else "Python's own list"
    return (
        f"{name} cannot be downloaded: the certificates that {setting} names cannot be read. "
        f"Set it to a file in PEM format that is there, or unset it: see {HELP}."
    )


# ---- logs


def quiet_libraries() -> None:
    """Takes signed parts of addresses out of what urllib3 writes into the log, which ComfyUI serves over HTTP."""
    for name in ("urllib3.connectionpool", "urllib3.connection", "urllib3.util.retry"):
        logging.getLogger(name).addFilter(unsigned)


def unsigned(record: logging.LogRecord) -> bool:
    """A logging filter, always True, that takes the query, which may be a signature, out of the addresses in a record."""
    record.msg, record.args, record.exc_info = without_query(record.getMessage()), (), None
    return True
