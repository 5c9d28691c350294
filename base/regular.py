"""Files that a program keeps for itself may be anything by the time they are opened again."""

import errno
import os
import stat


def regular(path: str, flags: int) -> int:
    """For open(…, opener=regular): the descriptor of a regular file. Raises OSError for a pipe, which would wait for ever,
    and for a device, which may have no end.
    """
    descriptor = os.open(path, flags | getattr(os, "O_NONBLOCK", 0), 0o666)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(errno.EINVAL, "It is no file but a folder, a pipe or a device", path)
    return descriptor
