"""registryd: the operator-side subscriber registry daemon. This is the code map, in reading order; there is no code here.

The law in data            sql/migrations/   tables, triggers and grants: what no path can break
The rules                  domain/           pure functions and types: who is present, what an event does, when to try again
The database               store/            one module a family of tables; its statements stand in sql/queries/ under the same name
A query is answered        http/presence.py  -> presence/resolver.py (group commit, in queue.py's turns) -> store/presence.py, .sql
A search is slowed down    presence/quota.py (counts, alarms, what all workers share) -> domain/enumeration.py (what is a sign of one)
Evidence is sealed         presence/sealing.py (which pages) -> sql/migrations/0009_evidence.sql (the chain); verified by store/audit.py
Somebody looks             cli/breakglass.py -> store/breakglass.py -> schema breakglass in the same migration
A contract ends            http/operator.py  -> feed/events.py -> domain/contract.py -> store/contracts.py; the trigger in
                                                sql/migrations/0002_invariants.sql ends the bindings and writes what is owed
A table of billing's       feed/lines.py (checks) -> feed/snapshot.py -> store/snapshots.py -> sql/queries/snapshots.sql (compares, applies)
A notification leaves      delivery/dispatcher.py (leases lanes) -> lane.py (one messenger's) -> push.py (one signed POST);
                                                domain/lane.py decides, at the pace of domain/pace.py
It is watched over         delivery/watch.py (what is owed, alarms, replays), digest.py (the day's count), export.py (by hand)
The two APIs               http/             messenger.py and operator.py are the tables of routes; openapi.yaml is their contract
Life                       daemon.py         from settings to READY=1, and from SIGTERM to the end; config.py, sdnotify.py, workers.py
A primary is lost          store/primary.py  finds the next one; store/pool.py goes there
What it tells              observe.py        every metric and log event there is
The commands               cli/
A messenger's backfill     identify.py, the other side of the API
To try it                  demo/, embedded.py

Dependencies point one way: cli > demo > daemon > http | feed | delivery > presence > store > observe > domain | config. Siblings
meet in tables, never in imports; asyncpg is imported in store/ alone. The linter holds both.
"""
