"""When certificates end: the outage that comes most surely. Shown as a metric, and told at a start and daily from three weeks ahead."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from cryptography import x509

from registryd import observe
from registryd.config import ConfigError, Credentials

SOON = timedelta(days=21)
DAY_S = 86_400.0
OWN = ("tls-certificate", "client-ca", "operator-client-ca")
OF_ENDPOINTS = ("endpoint-certificate-*", "endpoint-ca-*")


def ends(credentials: Credentials) -> dict[str, datetime]:
    """By credential: the end of its first certificate, or of a CA's earliest. Raises: ConfigError."""
    found = {}
    endpoints = sorted(path.name for pattern in OF_ENDPOINTS for path in credentials.directory.glob(pattern))
    for name in (*OWN, *endpoints):
        if (path := credentials.path(name)) is None:
            continue
        try:
            chain = x509.load_pem_x509_certificates(path.read_bytes())
        except (OSError, ValueError):
            raise ConfigError(f"{path}: not a PEM certificate") from None
        is_ca = name.endswith("client-ca") or name.startswith("endpoint-ca-")
        found[name] = min(each.not_valid_after_utc for each in (chain if is_ca else chain[:1]))
    return found


async def watch(credentials: Credentials) -> None:
    """Shows when each certificate ends, and tells of those that end soon. Raises: ConfigError."""
    now = datetime.now(UTC)
    for name, at in ends(credentials).items():
        observe.certificate_expires.labels(name).set(at.timestamp())
        if at <= now + SOON:
            facts = {"certificate": name, "expires_at": at.isoformat(), "days": (at - now).days}
            observe.event("certificate_expires", "error" if at <= now else "warning", **facts)
