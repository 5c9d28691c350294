"""The one exception of the developer's tools."""


class Problem(Exception):
    """Something that the person at the keyboard can put right; shown as it is."""
