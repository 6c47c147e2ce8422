-- What a call of billing's events reads and writes. Each statement takes some hundreds of the call's rows at once.

-- name: open_call
-- Why: a call waits for its turn and then looks, in one round trip; each event is told apart from those that were recorded before.
SELECT o.now, o.ends_left, o.event_id, o.content, o.outcome, o.reason FROM registry.open_feed_call($1, $2) AS o;

-- name: record_events
-- Why: one statement records hundreds of outcomes, so that the trigger that counts them runs once for them. What was recorded no longer
-- waits. The unique key refuses an event that another call has recorded, if ever two calls ran at once.
WITH told AS (
    SELECT e.event_id, e.type, e.content, e.reason, e.occurred_at
      FROM unnest($1::text[], $2::text[], $3::bytea[], $4::text[], $5::timestamptz[]) AS e(event_id, type, content, reason, occurred_at)
), gone AS (
    DELETE FROM registry.feed_waiting AS w USING told AS t WHERE w.event_id = t.event_id
)
INSERT INTO registry.feed_event (event_id, type, content, outcome, reason, occurred_at)
SELECT t.event_id, t.type, t.content, CASE WHEN t.reason IS NULL THEN 'applied' ELSE 'refused' END::registry.feed_outcome, t.reason, t.occurred_at
  FROM told AS t
 ORDER BY t.event_id
    ON CONFLICT (event_id) DO NOTHING;

-- name: note_waiting
-- Why: an event that waits is not recorded, so that it is judged anew; that it waits must not be forgotten.
INSERT INTO registry.feed_waiting AS w (event_id, type, reason, occurred_at)
SELECT e.event_id, e.type, e.reason, e.occurred_at
  FROM unnest($1::text[], $2::text[], $3::text[], $4::timestamptz[]) AS e(event_id, type, reason, occurred_at)
 ORDER BY e.event_id
    ON CONFLICT (event_id) DO UPDATE
   SET type = excluded.type, reason = excluded.reason, occurred_at = excluded.occurred_at, last_at = now(), calls = w.calls + 1;

-- name: lock_feed
-- Why: events are applied in order, so one call is applied at a time. A lock for each number would exhaust the lock table.
SELECT true AS locked FROM (SELECT pg_advisory_xact_lock(hashtextextended('registry.feed', 0))) AS waited;

-- name: find_known
-- Why: an event is judged by its number's contract of the highest generation, live or ended. It is locked, so that a DBA's update waits. A time
-- beyond Python's calendar is taken for its end: one odd row must not stop a whole call.
SELECT c.msisdn, c.generation, c.status, c.holder, c.end_user,
       least(c.started_at, '9999-12-31 00:00:00+00') AS started_at,
       CASE WHEN c.ended_at IS NOT NULL THEN least(c.ended_at, '9999-12-31 00:00:00+00') END AS ended_at,
       c.end_reason, CASE WHEN c.recorded_at IS NULL THEN (SELECT l.as_of FROM registry.last_snapshot AS l WHERE l.one AND isfinite(l.as_of)) END AS snapshot_at,
       s.status AS newest_status, s.status_at, s.end_user AS newest_end_user, s.end_user_at
  FROM (SELECT DISTINCT m AS msisdn FROM unnest($1::bigint[]) AS m) AS n
 CROSS JOIN LATERAL (SELECT max(g.generation) AS generation FROM registry.contract AS g WHERE g.msisdn = n.msisdn) AS latest
  JOIN registry.contract AS c ON c.msisdn = n.msisdn AND c.generation = latest.generation
  LEFT JOIN registry.newest_state AS s ON s.msisdn = c.msisdn
 ORDER BY c.msisdn
   FOR NO KEY UPDATE OF c;

-- name: count_turned
-- Why: how many numbers turn from present to absent by the rule that answers queries and the policy in force. A status that is NULL: nothing is
-- live under the number any more.
SELECT count(*) FILTER (
           WHERE registry.is_present(c.was, c.was_unverified, p.organisation_rule, p.suspended_is_present)
             AND coalesce(registry.is_present(c.is_now, c.is_unverified, p.organisation_rule, p.suspended_is_present), false) IS FALSE) AS absent
  FROM unnest($1::registry.contract_status[], $2::boolean[], $3::registry.contract_status[], $4::boolean[]) AS c(was, was_unverified, is_now, is_unverified)
 CROSS JOIN registry.policy_in_force(now()) AS p;

-- name: update_contracts
-- Why: one statement for hundreds of changes, so that the trigger that writes notifications runs once for them.
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

-- name: write_states
-- Why: a state event that comes after a newer one must have no effect, so the newest of each kind is kept.
INSERT INTO registry.newest_state AS s (msisdn, status, status_at, end_user, end_user_at)
SELECT n.msisdn, n.status::registry.contract_status, n.status_at, n.end_user::registry.end_user, n.end_user_at
  FROM unnest($1::bigint[], $2::text[], $3::timestamptz[], $4::text[], $5::timestamptz[]) AS n(msisdn, status, status_at, end_user, end_user_at)
    ON CONFLICT (msisdn) DO UPDATE
   SET status = excluded.status, status_at = excluded.status_at, end_user = excluded.end_user, end_user_at = excluded.end_user_at,
       recorded_at = now();
