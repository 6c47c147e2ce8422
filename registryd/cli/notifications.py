"""`notifications`: look at them, deliver them again, or deliver them by hand."""

from __future__ import annotations

import click

from registryd.cli import handover, lookup


@click.group()
def notifications() -> None:
    """Look at notifications, deliver them again, or deliver them by hand."""


for made in (lookup.status, lookup.explain, handover.replay, handover.export, handover.acknowledge):
    notifications.add_command(made)
