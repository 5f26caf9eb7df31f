"""Runs a module like `python -m`, in a process that ends when the one that started it does.

    python guarded.py DESCRIPTOR MODULE [ARGUMENT ...]

It is run as a file, by any interpreter: what that has installed is not ours to say. The descriptor
is a pipe's end for reading; nobody ever writes to the other end, so that it ends when its holder
does, by whatever death.
"""

import sys

if not sys.flags.safe_path:
    del sys.path[0]  # this folder's modules are none of the program's

import os
import signal
import threading
import time

_GRACE_S = 5.0
"""That a program has to end by itself once nobody supervises it."""


def _end_with(descriptor: int) -> None:
    while os.read(descriptor, 1):
        pass
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(_GRACE_S)
    if os.getpgid(0) == os.getpid():
        os.killpg(0, signal.SIGKILL)
    os.kill(os.getpid(), signal.SIGKILL)


def _main() -> None:
    import runpy

    _, descriptor, module, *arguments = sys.argv
    number = int(descriptor)
    os.set_inheritable(number, False)
    threading.Thread(target=_end_with, args=(number,), name="guard", daemon=True).start()
    if not sys.flags.safe_path:
        sys.path.insert(0, os.getcwd())
    sys.argv[:] = [module, *arguments]
    runpy.run_module(module, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    _main()
