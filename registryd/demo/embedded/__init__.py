"""A private PostgreSQL for the demo and the tests. Nothing for production: the wheel of registryd does not hold it."""

from registryd.demo.embedded.binaries import WHEEL, Binaries, EmbeddedError, find_binaries
from registryd.demo.embedded.server import Server
from registryd.processes import die_with

__all__ = ["WHEEL", "Binaries", "EmbeddedError", "Server", "die_with", "find_binaries"]
