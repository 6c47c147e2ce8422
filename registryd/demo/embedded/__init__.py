"""A private PostgreSQL for the demo and the tests. Nothing for production: the wheel of registryd does not hold it."""

from registryd.children import die_with
from registryd.demo.embedded.binaries import WHEEL, Binaries, EmbeddedError, find_binaries
from registryd.demo.embedded.server import Server

__all__ = ["WHEEL", "Binaries", "EmbeddedError", "Server", "die_with", "find_binaries"]
