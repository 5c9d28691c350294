"""What opens files at a publisher: the token, and where the user finds it again. Its value is in no text of ours."""

import os
import re
from dataclasses import dataclass, field

from ...base import environment
from .errors import DownloadError, printable


@dataclass(frozen=True)
class Token:
    """What opens files at a publisher, and in which words the user finds it again. No value: nobody is logged in."""

    value: str = field(default="", repr=False)
    origin: str = ""


def hub_token() -> Token:
    """The token of the Hub's user on this machine. Raises DownloadError where there is one that cannot be read."""
    from huggingface_hub import constants, get_token

    variable = next((name for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN") if environment.text(name)), "")
    try:
        value = get_token() or ""
    except (OSError, UnicodeError) as err:
        why = os.strerror(err.errno).lower() if isinstance(err, OSError) and err.errno else "it is no text"
        raise DownloadError(
            f"The token file {printable(constants.HF_TOKEN_PATH)} cannot be read: {why}. "
            "Repair or delete it (`hf auth login` makes a new one), or set HF_TOKEN."
        ) from err
    return usable(Token(value, variable or f"the token file {printable(constants.HF_TOKEN_PATH)}"))


def civitai_token() -> Token:
    """CIVITAI_API_KEY, which may be unset. Raises DownloadError where it cannot be sent."""
    return usable(Token(environment.text("CIVITAI_API_KEY"), "CIVITAI_API_KEY"))


def usable(token: Token) -> Token:
    """The token. Raises DownloadError where it has a character that no token has: a request could not carry it."""
    if re.search(r"[^\x21-\x7e]", token.value):
        raise DownloadError(
            f"The token in {token.origin} holds a blank, a line break or another character that no token has. "
            "Copy it again."
        )
    return token
