"""SIGHUP: a process reads again what can change without a restart."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from hashlib import sha256

from registryd import config, observe
from registryd.config import ConfigError, Credentials, Settings
from registryd.roles import certificates


class Reload:
    """What one process reads again, and what came of the last time."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._credentials = _digests(settings.credentials)
        self.certificates: list[Callable[[], None]] = []
        """Each reads the TLS certificate of one listener again."""
        self.others: list[Callable[[], Awaitable[object]]] = []
        """What the role reads again beside the certificates and the log level."""
        self.note = ""
        """What `systemctl status` says of the last reload, where it did not do everything."""

    async def run(self) -> None:
        """Reads everything again. At the first part that cannot be read it stops: this part and those after it stay as they were."""
        try:
            fresh = config.load(self._settings.path)
            for load in self.certificates:
                load()
            for read in self.others:
                await read()
            await certificates.watch(self._settings.credentials)
        except Exception as error:
            reason = str(error) if isinstance(error, ConfigError) else ""
            observe.event("reload_failed", "error", kind=type(error).__name__, reason=reason)
            self.note = f"; the last reload failed: {reason or type(error).__name__}"
            return
        needs = config.need_restart(self._settings.file, fresh.file)
        needs += sorted(dict(self._credentials.items() ^ _digests(self._settings.credentials).items()))
        observe.event("reloaded", "warning" if needs else "info", log_level=fresh.file.log.level, needs_restart=needs)
        observe.configure(fresh.file.log.level)
        self.note = f"; until a restart the former value holds of {', '.join(needs)}" if needs else ""


def _digests(credentials: Credentials) -> Mapping[str, bytes]:
    """What a process was given and reads once: a reload reads nothing again but the certificate that it serves."""
    names = [name for name in credentials.NAMES if name not in ("tls-certificate", "tls-key")]
    found = {}
    for path in (*(credentials.directory / name for name in names), *credentials.directory.glob("endpoint-*")):
        with suppress(OSError):  # it is not there, or it is another role's
            found[path.name] = sha256(path.read_bytes()).digest()
    return found
