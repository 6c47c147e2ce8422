"""`notifications hold | release | waves`: the brake, by hand, and what held itself."""

from __future__ import annotations

import click

from registryd.cli.completion import messenger_name
from registryd.cli.kinds import Whole
from registryd.cli.printing import Table
from registryd.cli.progress import progress
from registryd.cli.running import Context, Exit, command, fail, json_option, pass_context, present
from registryd.domain.identifiers import MessengerId
from registryd.store import holds, messengers
from registryd.store.bulk import connect
from registryd.store.pool import Database


async def _messenger(db: Database, name: str | None) -> MessengerId | None:
    if name is None:
        return None
    async with db.connection() as connection:
        return (await messengers.named(connection, name)).messenger_id


@click.command()
@messenger_name(metavar="[MESSENGER]", required=False)
@click.option("--reason", required=True, help="Why; it is kept.")
@json_option
@pass_context
@command
async def hold(context: Context, *, name: str | None, reason: str, as_json: bool) -> None:
    """Hold the notifications of a messenger, or of all: within a second no new push begins, and pull answers 503.

    Deadlines run on. Nothing releases itself: registryd notifications release. Test pushes and daily digests go on.
    """
    async with context.database() as db:
        messenger_id = await _messenger(db, name)
        made = await holds.hold(db, messenger_id, reason)
    who = name or "all messengers"
    if not made:
        fail(f"the notifications of {who} are held already")
    present(as_json, {"messenger": name, "held": True, "reason": reason}, f"the notifications of {who} are held; their deadlines run on")


@click.command()
@messenger_name(metavar="[MESSENGER]", required=False)
@click.option("--wave", type=Whole(1), help="Release this wave of ends beyond the bound, instead of a hold by hand.")
@click.option("--reason", required=True, help="Why; it is kept.")
@click.option("--dry-run", is_flag=True, help="Count what would be released, and release nothing.")
@json_option
@pass_context
@command
async def release(context: Context, *, name: str | None, wave: int | None, reason: str, dry_run: bool, as_json: bool) -> None:
    """Release what `notifications hold` holds (of a messenger, or the hold of all), or a held wave. Pushes begin at once.

    Look at a wave before you release it: a notification that was sent cannot be called back, and an end that was a mistake can be undone
    (registryd breakglass reinstate).
    """
    if wave is not None:
        if name is not None:
            fail("say either MESSENGER or --wave", Exit.USAGE)
        await _release_wave(context, wave, reason, dry_run=dry_run, as_json=as_json)
        return
    who = name or "all messengers"
    async with context.database() as db:
        messenger_id = await _messenger(db, name)
        is_held = any(h.messenger_id == messenger_id for h in await holds.in_force(db))
        if not is_held or not (dry_run or await holds.release(db, messenger_id, reason)):
            fail(f"no hold of {who} is in force: registryd notifications waves shows what is held")
    facts = {"messenger": name, "released": not dry_run, "dryRun": dry_run}
    present(as_json, facts, f"the notifications of {who} {'would be' if dry_run else 'are'} released")


async def _release_wave(context: Context, wave_id: int, reason: str, *, dry_run: bool, as_json: bool) -> None:
    async with context.database() as db:
        held = next((wave.held for wave in await holds.waves(db) if wave.wave_id == wave_id and wave.held), None)
    if held is None:
        fail(f"there is no wave {wave_id} that holds anything: registryd notifications waves lists them")
    released = 0
    if not dry_run:
        connection = await connect(context.settings.file.database.dsn, password=context.password)
        try:
            with progress("releasing", "notifications", held) as work:
                while moved := await holds.release_wave(connection, wave_id, reason):
                    released += moved
                    work.move(released)
        finally:
            await connection.close()
    present(
        as_json,
        {"wave": wave_id, "held": held, "released": released, "dryRun": dry_run},
        f"{held:,} notifications of wave {wave_id} would be released"
        if dry_run
        else f"{released:,} notifications of wave {wave_id} are released",
    )


@click.command()
@json_option
@pass_context
@command
async def waves(context: Context, *, as_json: bool) -> None:
    """Show what is held: by hand, and in waves of ends beyond the policy's bound. `registryd report wave` shows past waves too."""
    async with context.database() as db:
        in_force, held = await holds.in_force(db), await holds.waves(db)
        async with db.connection() as connection:
            names = {messenger.messenger_id: messenger.name for messenger in await messengers.read_all(connection)}
    by_hand = Table("held by hand", "since", "by", "why")
    for h in in_force:
        by_hand.add(names[MessengerId(h.messenger_id)] if h.messenger_id else "all", h.held_at, h.held_by, h.reason)
    table = Table("wave", "since", "ended by", "ends", "held", "earliest deadline")
    for wave in held:
        style = "red" if wave.half_is_gone else ""
        table.add(str(wave.wave_id), wave.began_at, wave.ended_by, wave.ends, wave.held, wave.oldest_deadline_at, style=style)
    present(
        as_json,
        {
            "holds": [
                {
                    "messenger": names[MessengerId(h.messenger_id)] if h.messenger_id else None,
                    "since": h.held_at,
                    "by": h.held_by,
                    "reason": h.reason,
                }
                for h in in_force
            ],
            "waves": [
                {
                    "wave": wave.wave_id,
                    "beganAt": wave.began_at,
                    "endedBy": wave.ended_by,
                    "ends": wave.ends,
                    "held": wave.held,
                    "oldestDeadlineAt": wave.oldest_deadline_at,
                }
                for wave in held
            ],
        },
        by_hand,
        table,
    )
