"""`python -m tests.fuzz.guided LAW CORPUS [libFuzzer's options]`: atheris looks for bytes that break a law, led by the code they reach.

It runs in a process of its own, because libFuzzer ends the process that it runs in.
"""

from __future__ import annotations

import importlib
import sys
from pathlib import Path


def main() -> None:
    atheris = importlib.import_module("atheris")
    with atheris.instrument_imports(include=["registryd.http", "registryd.domain"]):
        laws = importlib.import_module("tests.fuzz.laws")
    framing = importlib.import_module("tests.fuzz.framing")
    law, corpus, *options = sys.argv[1:]
    seeds = framing.bodies() if law == "bodies" else [bytes([place % 256]) + sent for place, sent in enumerate(framing.requests())]
    for place, seed in enumerate(seeds):
        Path(corpus, f"seed-{place}").write_bytes(seed)
    atheris.Setup([sys.argv[0], corpus, *options], getattr(laws, law))
    atheris.Fuzz()


if __name__ == "__main__":
    main()
