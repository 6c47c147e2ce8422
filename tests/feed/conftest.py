"""The feed is tested through the operator API of one daemon a module."""

from tests.http.conftest import module_database, service

__all__ = ["module_database", "service"]
