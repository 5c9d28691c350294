"""Text of others made harmless for one line of a log, a terminal or a script: nothing in it breaks a line or moves a cursor."""

import unicodedata

UNSEEN = ("Cc", "Cn", "Cs", "Zl", "Zp")  # control characters, codes without one, halves of characters, every line's end
TURNING = "\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"  # they show a name in another order
SHORT = {"\n": "\\n", "\r": "\\r", "\t": "\\t"}


def one_line(text: str) -> str:
    """The text with everything unseen written out (\\n, \\x1b, \\u202e), so that one name stays one line."""
    return "".join(written(char) if unicodedata.category(char) in UNSEEN or char in TURNING else char for char in text)


def visible(text: str) -> str:
    """The same for a text that may have lines and tabs of its own."""
    return "".join(char if char in "\n\t" else one_line(char) for char in text.replace("\r\n", "\n"))


def written(char: str) -> str:
    """A character as an escape: the short one where Python and JSON know one, else by its number, as \\x1b or \\u2028."""
    return SHORT.get(char) or (f"\\x{ord(char):02x}" if ord(char) < 256 else f"\\u{ord(char):04x}")
