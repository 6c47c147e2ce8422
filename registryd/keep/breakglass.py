"""Break-glass: makes the digests of each requested number, here where journal-key is, so that no person needs a secret of the service."""

from __future__ import annotations

from registryd.store import breakglass_requests, digest_keys
from registryd.store.jobs import exclusively
from registryd.store.pool import Database
from registryd.store.secretbox import SecretBox


async def prepare_requests(db: Database, box: SecretBox) -> None:
    """Prepares the requests that wait for it. Raises: Unavailable, WrongSecretsKey."""
    async with exclusively(db, "breakglass") as connection:
        asked = await breakglass_requests.find(connection) if connection else []
        if connection and asked:
            keys = await digest_keys.read_all(connection, box)
            for one in asked:
                await breakglass_requests.prepare(connection, one, keys)
