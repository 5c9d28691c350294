"""An error that a library or the system raised, as a sentence for the user."""

import os

from .plain import visible


def reason(err: BaseException) -> str:
    """What happened, as a sentence: of the system's errors the file and the cause, else the error's own text."""
    if isinstance(err, OSError) and err.strerror:
        cause = err.strerror[:1].lower() + err.strerror[1:]
        names = [os.fsdecode(name) for name in (err.filename, err.filename2) if isinstance(name, str | bytes)]
        text = f"{' → '.join(names)}: {cause}" if names else f"The system refused: {cause}"
    elif isinstance(err, ModuleNotFoundError) and err.name:
        text = f"The Python package {err.name} is missing: start this with ComfyUI's Python, or install it"
    elif isinstance(err, KeyError):
        text = f"'{err.args[0] if err.args else ''}' is missing in {origin(err)}"
    else:
        text = str(err).strip() or f"Something went wrong in {origin(err)}"
    return visible(text if text.endswith((".", "!", "?", "…")) else f"{text}.")


def origin(err: BaseException) -> str:
    """The file and line that raised an error without words of its own: all that is known of it."""
    trace = err.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    return f"{os.path.basename(trace.tb_frame.f_code.co_filename)}, line {trace.tb_lineno}" if trace else "Python"
