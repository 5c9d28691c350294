"""What can go wrong with a download, in words for the user."""

import re


class DownloadError(RuntimeError):
    """A download that cannot succeed by itself. Its text is for the user."""


class NoRoom(DownloadError):
    """The disk is too small, whatever the source."""


class DownloadCancelled(Exception):
    """The user stopped the download; what was fetched stays for the next time."""


def refusal(status: int, url: str, name: str) -> str:
    """What an HTTP status that repeating will not change means for the file `name`."""
    host = url.split("/")[2]
    if status in (401, 403):
        return (
            f"{host} refuses {name}: it needs an account that may download it. "
            "Log in (HF_TOKEN or CIVITAI_API_KEY), accept its licence on its page, and try again."
        )
    if status in (404, 410):
        return f"{host} does not have {name}: it was moved or removed. Update SteadyDancer or place it by hand."
    return f"{host} answered {status} when asked for {name}. Try again later."


NO_SUCH_NAME = "the server's name is not known"  # mostly: there is no network


def plain(err: BaseException) -> str:
    """A network error in a few words without an address: signed addresses must not reach a log."""
    text = f"{type(err).__name__} {err}".lower()
    for sign, words in (
        ("timed out", "the server is silent"),
        ("timeout", "the server is silent"),
        ("refused", "the server refuses connections"),
        ("resolution", NO_SUCH_NAME),
        ("name or service", NO_SUCH_NAME),
        ("getaddrinfo", NO_SUCH_NAME),
        ("certificate", "its certificate is not valid"),
    ):
        if sign in text:
            return words
    answered = re.search(r"the server answered \d+", text)
    return answered[0] if answered else "the connection was lost"
