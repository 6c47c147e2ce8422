"""TLS for pushes to one messenger: the client certificate that we present, and the CA that we trust.

Each messenger may have two credentials: `endpoint-certificate-NAME`, the certificate (PEM: certificate, chain and key), and
`endpoint-ca-NAME`, the one CA that is trusted for its endpoint, in place of the public ones.
"""

from __future__ import annotations

import ssl

from registryd.config import Credentials


def endpoint_tls(credentials: Credentials, messenger: str) -> ssl.SSLContext | None:
    """The messenger's own TLS context; None where it needs none. Raises: OSError (ssl.SSLError too), where a file cannot be used."""
    certificate, ca = credentials.path(f"endpoint-certificate-{messenger}"), credentials.path(f"endpoint-ca-{messenger}")
    if certificate is None and ca is None:
        return None
    context = ssl.create_default_context(cafile=ca)
    if certificate is not None:
        context.load_cert_chain(certificate)
    return context
