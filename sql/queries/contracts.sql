-- What a call of billing's events reads and writes. Each statement takes all rows of the call at once.

-- name: record_events
-- Why: the unique key refuses an event that another call has recorded, if ever two calls ran at once.
INSERT INTO registry.feed_event (event_id, type, content, outcome, occurred_at)
SELECT e.event_id, e.type, e.content, 'applied', e.occurred_at
  FROM unnest($1::text[], $2::text[], $3::bytea[], $4::timestamptz[]) AS e(event_id, type, content, occurred_at)
 ORDER BY e.event_id
    ON CONFLICT (event_id) DO NOTHING
RETURNING event_id;

-- name: find_events
-- Why: an event that is sent again is told what became of it before.
SELECT e.event_id, e.content, e.outcome, e.reason FROM registry.feed_event AS e WHERE e.event_id = ANY ($1::text[]);

-- name: lock_feed
-- Why: events are applied in order, so one call is applied at a time. A lock for each number would exhaust the lock table.
SELECT true AS locked FROM (SELECT pg_advisory_xact_lock(hashtextextended('registry.feed', 0))) AS waited;

-- name: find_latest_contracts
-- Why: an event is judged by its number's contract of the highest generation, live or ended. It is locked, so that a DBA's update waits.
SELECT c.msisdn, c.generation, c.status, c.holder, c.end_user, c.started_at, c.ended_at, c.end_reason
  FROM (SELECT DISTINCT m AS msisdn FROM unnest($1::bigint[]) AS m) AS n
 CROSS JOIN LATERAL (SELECT max(g.generation) AS generation FROM registry.contract AS g WHERE g.msisdn = n.msisdn) AS latest
  JOIN registry.contract AS c ON c.msisdn = n.msisdn AND c.generation = latest.generation
 ORDER BY c.msisdn
   FOR NO KEY UPDATE OF c;

-- name: update_contracts
-- Why: one statement for all changes of a call, so that the trigger that writes notifications runs once.
UPDATE registry.contract AS c
   SET status = n.status::registry.contract_status, holder = n.holder::registry.holder, end_user = n.end_user::registry.end_user,
       ended_at = n.ended_at, end_reason = n.end_reason::registry.end_reason
  FROM unnest($1::bigint[], $2::smallint[], $3::text[], $4::text[], $5::text[], $6::timestamptz[], $7::text[])
       AS n(msisdn, generation, status, holder, end_user, ended_at, end_reason)
 WHERE c.msisdn = n.msisdn AND c.generation = n.generation AND c.ended_at IS NULL
RETURNING c.msisdn;

-- name: insert_contracts
-- Why: new generations come after the update that ended the ones before them.
INSERT INTO registry.contract (msisdn, generation, status, holder, end_user, started_at, ended_at, end_reason)
SELECT n.msisdn, n.generation, n.status::registry.contract_status, n.holder::registry.holder, n.end_user::registry.end_user, n.started_at, n.ended_at,
       n.end_reason::registry.end_reason
  FROM unnest($1::bigint[], $2::smallint[], $3::text[], $4::text[], $5::text[], $6::timestamptz[], $7::timestamptz[], $8::text[])
       AS n(msisdn, generation, status, holder, end_user, started_at, ended_at, end_reason)
RETURNING msisdn;

-- name: refuse_events
-- Why: a refused event that is sent again is refused for the same reason.
INSERT INTO registry.feed_event (event_id, type, content, outcome, reason, occurred_at)
SELECT e.event_id, e.type, e.content, 'refused', e.reason, e.occurred_at
  FROM unnest($1::text[], $2::text[], $3::bytea[], $4::text[], $5::timestamptz[]) AS e(event_id, type, content, reason, occurred_at)
    ON CONFLICT (event_id) DO NOTHING;
