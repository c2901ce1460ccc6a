"""Types of the native module."""

from typing import Any, Self

built_from: str
"""The digest of the C sources that it was built from; see build_hook.py."""

class UsualRequests:
    """See serve.c, and core/operations/usual.py for what it is given."""

    def __new__(cls, **parts: Any) -> Self: ...
    def serve(self, origin: bytes, frame: bytes | memoryview, /) -> bool | None:
        """Serve a frame, if it is usual. True: that was done; None: Python went on with it; False: nothing was done."""
