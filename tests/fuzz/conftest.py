"""One daemon of each API for the cases of a module."""

from tests.http.conftest import module_database, service

__all__ = ["module_database", "service"]
