"""The webhook secret that a messenger's engineer gives: in a file or in the environment, because a process list would show an option."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import click

from registryd.cli.running import Exit, fail
from registryd.delivery import signing
from registryd.delivery.signing import Key
from registryd.domain.secret import SigningSecret

VARIABLE = "REGISTRYD_WEBHOOK_SECRET"
_FILE = click.Path(exists=True, dir_okay=False, path_type=Path)


def secret_file_option(kinds: str) -> Callable[[Any], Any]:
    """`kinds`: how what is wanted begins."""
    return click.option("--secret-file", type=_FILE, help=f"The webhook secret ({kinds}), in a file; else ${VARIABLE}.")


def key(secret_file: Path | None) -> Key:
    """The key to verify with."""
    text = _text(secret_file)
    try:
        return signing.key_from_shown(text)
    except ValueError:
        _refuse()


def signing_secret(secret_file: Path | None) -> SigningSecret:
    """The secret to sign with, as the registry does."""
    text = _text(secret_file)
    if text.startswith("whpk_"):
        fail(
            "a public key (whpk_…) signs nothing: let your endpoint take a secret (whsec_…) or a pair of your own for the trial, and give "
            "that secret, or the pair's private half (whsk_<base64 of its 32-byte seed>), here",
            Exit.USAGE,
        )
    try:
        return signing.secret_from_shown(text)
    except ValueError:
        _refuse()


def _text(secret_file: Path | None) -> str:
    text = (secret_file.read_text("utf-8-sig") if secret_file else os.environ.get(VARIABLE, "")).strip()
    if not text:
        fail(
            "no webhook secret is given: put the one that you have from the operator (whsec_… or whpk_…) into the environment as "
            f"{VARIABLE}, or into a file for --secret-file; if it is lost, the operator makes you another",
            Exit.USAGE,
        )
    if text.startswith(("v1,", "v1a,")):
        fail("the webhook secret begins with whsec_ or whpk_: leave out what stands before it", Exit.USAGE)
    if text[:1] in ("'", '"') or text[-1:] in ("'", '"'):
        fail("the webhook secret has quotes around it: leave them out", Exit.USAGE)
    return text


def _refuse() -> NoReturn:
    fail("the webhook secret is not whsec_<base64> or whpk_<base64>: give it whole, as you have it from the operator", Exit.USAGE)
