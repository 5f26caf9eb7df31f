"""What a call pays for a model that is resident: one lease, taken and given back.

The peer, in this file, is the least there could be: a look-up in a dict under a lock and a count.

    python bench/residency.py [--save]
"""

from __future__ import annotations

import threading
from time import perf_counter

from harness import paired, save

from gen_worker.models.residency import Budgets, Residency

PER_BLOCK = 2_000
MODELS = 64


class Model:
    """Something that was loaded."""

    def to(self, place: str) -> None:
        raise RuntimeError(f"a resident model is not moved to {place}")


class Bare:
    """A dict, a lock and counts."""

    def __init__(self, names: list[str]) -> None:
        self.lock = threading.Lock()
        self.models = {name: Model() for name in names}
        self.counts = dict.fromkeys(names, 0)

    def take(self, name: str) -> Model:
        with self.lock:
            self.counts[name] += 1
            return self.models[name]

    def give(self, name: str) -> None:
        with self.lock:
            self.counts[name] -= 1


def main() -> None:
    names = [f"acme/model-{number}:prod" for number in range(MODELS)]
    bare = Bare(names)
    residency = Residency(Budgets(max_vram_gb=1.0, max_ram_gb=1.0))
    for name in names:
        residency.use(name, "cuda:0", Model, put=lambda value, place: None).release()

    def ours() -> float:
        begin = perf_counter()
        for number in range(PER_BLOCK):
            with residency.use(names[number % MODELS], "cuda:0", Model):
                pass
        return (perf_counter() - begin) * 1e6 / PER_BLOCK

    def peer() -> float:
        begin = perf_counter()
        for number in range(PER_BLOCK):
            name = names[number % MODELS]
            bare.take(name)
            bare.give(name)
        return (perf_counter() - begin) * 1e6 / PER_BLOCK

    row = paired(
        "lease of a resident model",
        ours,
        peer,
        unit="us",
        peer_source="bench/residency.py",
        goal="<= 50 us",
        passes=lambda ours, peer, ratio: ours <= 50,
    )
    save("residency", [row])


if __name__ == "__main__":
    main()
