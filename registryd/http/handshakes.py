"""TLS handshakes that fail: counted by reason and logged rarely, in words of ours, because what failed is a stranger's."""

from __future__ import annotations

import ssl

from registryd import observe

REASONS = {
    "UNSUPPORTED_PROTOCOL": "version",
    "VERSION_TOO_LOW": "version",
    "TLSV1_ALERT_PROTOCOL_VERSION": "version",
    "HTTP_REQUEST": "plain_http",
    "HTTPS_PROXY_REQUEST": "plain_http",
    "WRONG_VERSION_NUMBER": "not_tls",
    "UNKNOWN_PROTOCOL": "not_tls",
    "NO_SHARED_CIPHER": "cipher",
    "NO_SHARED_GROUP": "cipher",
    "NO_SUITABLE_SIGNATURE_ALGORITHM": "cipher",
    "PEER_DID_NOT_RETURN_A_CERTIFICATE": "client_certificate_missing",
    "CERTIFICATE_VERIFY_FAILED": "client_certificate",
    "TLSV1_ALERT_UNKNOWN_CA": "our_certificate_refused",
    "SSLV3_ALERT_BAD_CERTIFICATE": "our_certificate_refused",
    "SSLV3_ALERT_UNSUPPORTED_CERTIFICATE": "our_certificate_refused",
    "SSLV3_ALERT_CERTIFICATE_REVOKED": "our_certificate_refused",
    "SSLV3_ALERT_CERTIFICATE_EXPIRED": "our_certificate_refused",
    "SSLV3_ALERT_CERTIFICATE_UNKNOWN": "our_certificate_refused",
}
OTHER_REASONS = ("our_certificate_refused", "timeout", "closed", "other")
"""By OpenSSL's names. An alert is the client's word."""


class Handshakes:
    """The handshakes of one API."""

    def __init__(self, api: str) -> None:
        self._api = api
        self._repeats = observe.repeats()
        for reason in {*REASONS.values(), *OTHER_REASONS}:
            observe.child(observe.tls_handshakes_failed, api, reason)

    def tell_failure(self, error: OSError) -> None:
        reason = why(error)
        observe.child(observe.tls_handshakes_failed, self._api, reason).inc()
        facts = {"api": self._api, "reason": reason}
        if isinstance(error, ssl.SSLCertVerificationError):
            facts["cause"] = error.verify_message  # one of OpenSSL's constants
        self._repeats.tell("tls_handshake_failed", "info", kind=(reason, facts.get("cause")), facts=facts)


def why(error: OSError) -> str:
    """The reason of a failed handshake, in a word of ours."""
    if isinstance(error, ssl.SSLError):
        return REASONS.get(error.reason or "", "other")
    if isinstance(error, ConnectionAbortedError | TimeoutError):
        return "timeout"
    return "closed"
