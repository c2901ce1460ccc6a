from __future__ import annotations

import ctypes

import pytest
import zmq

from meshcache.sockets.libzmq import addresses


def test_functions_of_the_libzmq_in_use_are_found() -> None:
    found = addresses("zmq_errno", "zmq_version")
    assert found is not None
    numbers = [ctypes.c_int() for _ in range(3)]
    ctypes.CFUNCTYPE(None, *[ctypes.POINTER(ctypes.c_int)] * 3)(found[1])(*map(ctypes.byref, numbers))
    assert tuple(number.value for number in numbers) == zmq.zmq_version_info()
    assert addresses("no_such_function") is None


def test_they_are_looked_up_once(monkeypatch: pytest.MonkeyPatch) -> None:
    found = addresses("zmq_errno")
    monkeypatch.delattr(ctypes, "CDLL")
    assert addresses("zmq_errno") == found
