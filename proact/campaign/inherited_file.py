"""Memory that local worker processes share with the process that starts them."""

from __future__ import annotations

import mmap
import tempfile
from multiprocessing.reduction import DupFd
from typing import Any


class InheritedFile:
    """A file without a name, whose bytes the processes that this one starts share.

    No other program can open or remove the file, and the system frees it with the last process
    that uses it, however that process ends.

    Args:
        content: the bytes of the file, at least one.

    Raises:
        OSError: the folder of temporary files has no space for the content.
    """

    def __init__(self, content: bytes) -> None:
        # Linux makes a file without a name; other systems remove the name at once.
        self._file = tempfile.TemporaryFile()  # noqa: SIM115 - it lives as long as this object
        try:
            self._file.write(content)
            self._file.flush()
            self.memory = mmap.mmap(self._file.fileno(), 0)
        except BaseException:
            self._file.close()
            raise

    def __reduce__(self) -> tuple[Any, ...]:
        # Processes are pickled to the ones that they start; DupFd passes the descriptor on.
        return _Mapped, (DupFd(self._file.fileno()),)

    def close(self) -> None:
        """Release the memory of this process."""
        self.memory.close()
        self._file.close()


class _Mapped:
    """An inherited file in a process that was started.

    Attributes:
        memory: the shared bytes of the file.
    """

    def __init__(self, descriptor: Any) -> None:
        self._descriptor = descriptor.detach()
        self.memory = mmap.mmap(self._descriptor, 0)
