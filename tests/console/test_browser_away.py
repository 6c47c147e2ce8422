"""A real browser while the database is away: what is known is told, and the page comes back by itself."""

from __future__ import annotations

from pathlib import Path

import pytest
from playwright.sync_api import expect

from tests.conftest import TestDatabase, daemon, make_site
from tests.console.chromium import EXECUTABLE, MISSING, apart, chromium, window
from tests.console.conftest import Desk

pytestmark = pytest.mark.skipif(EXECUTABLE is None, reason=MISSING)


async def take_away(database: TestDatabase, *, is_away: bool) -> None:
    """The database takes no writes of ours, as one that was demoted; or it does again."""
    how = "SET default_transaction_read_only = on" if is_away else "RESET default_transaction_read_only"
    async with database.connect() as dba:
        await dba.execute(f'ALTER ROLE registryd_app IN DATABASE "{database.name}" {how}')
        await dba.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = $1 AND pid <> pg_backend_pid()", database.name
        )


def test_a_database_that_is_away_is_told_and_the_page_comes_back(database: TestDatabase, tmp_path: Path, screenshots: Path) -> None:
    site = make_site(database, tmp_path)
    with daemon(site, "operate") as running, chromium() as browser, window(browser, desk := Desk(site, running)) as person:
        apart(take_away(database, is_away=True))
        try:
            person.open("/console/backlog")
            expect(person.page.get_by_role("heading", level=1)).to_have_text("The database does not answer")
            expect(person.page.locator("main")).to_contain_text("Notifications wait. Their deadlines run on.")
            person.page.screenshot(path=screenshots / "away-light.png", full_page=True)
        finally:
            apart(take_away(database, is_away=False))
        expect(person.page.get_by_role("heading", level=1)).to_have_text("Backlog")
        assert desk.events("request_failed") == []
        assert "Traceback" not in running.written()
