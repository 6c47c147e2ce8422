"""`notifications`: look at them, hold them, deliver them again, or deliver them by hand."""

from __future__ import annotations

import click

from registryd.cli import brake, handover, lookup


@click.group()
def notifications() -> None:
    """Look at notifications, hold them, deliver them again, or deliver them by hand."""


for made in (lookup.status, lookup.explain, handover.replay, handover.export, handover.acknowledge, brake.hold, brake.release, brake.waves):
    notifications.add_command(made)
