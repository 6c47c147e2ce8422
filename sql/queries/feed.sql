-- The state of billing's feed, for people, metrics and alarms.

-- name: read_status
-- Why: what a person asks first: may the registry answer, does billing speak, does anything wait, how many contracts may still end.
SELECT s.complete, s.complete_since, s.source, s.declared_by, s.reason, s.last_event_at, s.last_snapshot_at, s.waiting, s.oldest_waiting_at,
       s.ends_last_hour, s.ends_bound, s.ends_allowed, s.ends_left, now() AS now
  FROM report.feed_status AS s;

-- name: read_waiting
-- Why: which events to ask billing for, the one that has waited longest first.
SELECT w.event_id, w.type, w.reason, w.occurred_at, w.first_at, w.last_at, w.calls FROM report.feed_waiting AS w ORDER BY w.first_at LIMIT $1;

-- name: count_waiting
-- Why: what they wait for says whom to ask.
SELECT w.reason, count(*) AS events FROM registry.feed_waiting AS w GROUP BY w.reason;

-- name: count_long_waiting
-- Why: billing sends again within minutes what only time mends; what waits longer needs a person.
SELECT count(*) AS events FROM registry.feed_waiting AS w WHERE w.first_at < now() - interval '15 minutes';

-- name: read_lag
-- Why: how long after it happened billing tells things, today (UTC).
SELECT l.type, l.outcome, l.events, l.mean_lag, l.worst_lag FROM report.feed_lag AS l WHERE l.day = (now() AT TIME ZONE 'UTC')::date ORDER BY 1, 2;

-- name: read_minutes
-- Why: how many events came in each of the last $1 whole minutes. The newest $2 are read by an index; where they do not reach back so far, the first
-- of their minutes is not whole and is left out.
WITH newest AS MATERIALIZED (
    SELECT date_trunc('minute', e.recorded_at, 'UTC') AS minute
      FROM registry.feed_event AS e WHERE e.recorded_at >= date_trunc('minute', now(), 'UTC') - $1::integer * interval '1 minute'
     ORDER BY e.recorded_at DESC LIMIT $2)
SELECT m.minute, count(n.minute) AS events
  FROM generate_series((SELECT CASE WHEN count(*) < $2 THEN date_trunc('minute', now(), 'UTC') - $1::integer * interval '1 minute'
                                    ELSE min(f.minute) + interval '1 minute' END FROM newest AS f),
                       date_trunc('minute', now(), 'UTC') - interval '1 minute', interval '1 minute') AS m(minute)
  LEFT JOIN newest AS n ON n.minute = m.minute
 GROUP BY m.minute ORDER BY m.minute;

-- name: read_refused
-- Why: what billing must correct, today (UTC), by what it was told.
SELECT e.reason, count(*) AS events
  FROM (SELECT f.outcome, f.reason FROM registry.feed_event AS f WHERE f.recorded_at >= date_trunc('day', now(), 'UTC')
         ORDER BY f.recorded_at DESC LIMIT $1) AS e
 WHERE e.outcome = 'refused' GROUP BY e.reason ORDER BY 2 DESC, 1;

-- name: read_snapshot
SELECT l.as_of, l.applied_at, l.lines, l.rejects, l.started, l.changed, l.ended FROM registry.last_snapshot AS l;

-- name: read_allowances
-- Why: which known waves are let through now.
SELECT a.allowance_id, a.ends, a.used, a.until_at, a.reason, a.made_by, a.made_at
  FROM registry.wave_allowance AS a WHERE a.until_at > now() ORDER BY a.made_at;

-- name: allow_ends
-- Why: a wave that somebody knows of goes through; one that is allowed for ever would be no bound. $4: the person who does it in the console; NULL:
-- whoever has logged in to the database.
INSERT INTO registry.wave_allowance (ends, until_at, reason, made_by)
SELECT $1::bigint, $2::timestamptz, $3::text, coalesce($4::text, session_user) WHERE $2::timestamptz > now() AND $2::timestamptz <= now() + interval '7 days'
RETURNING allowance_id, ends, used, until_at, reason, made_by, made_at;

-- name: declare_complete
-- Why: from then on queries are answered.
SELECT true AS declared FROM registry.declare_complete($1, $2);

-- name: declare_incomplete
-- Why: from then on nothing is answered, because an answer might be wrong.
SELECT true AS declared FROM registry.declare_incomplete($1);

-- name: note_waiting_alarms
-- Why: an event that billing never sends again would be a subscriber who is answered wrongly or never told of. Which alarms were raised is kept, so
-- that each is told once for all processes. The notice period of an end runs since it happened. Ends beyond the bound are told
-- at once: if they are a mistake, it is still under way.
WITH told AS (
    UPDATE registry.feed_waiting AS w SET alarms = d.alarms
      FROM (SELECT e.event_id, CASE WHEN e.type IN ('terminated', 'ported_out', 'holder_changed') AND e.occurred_at <= now() - p.notice_within / 2
                                    THEN 2 ELSE 1 END AS alarms
              FROM registry.feed_waiting AS e CROSS JOIN registry.policy_in_force(now()) AS p
             WHERE e.first_at <= now() - interval '15 minutes' OR e.reason = 'too_many_ends') AS d
     WHERE w.event_id = d.event_id AND w.alarms < d.alarms
    RETURNING w.type, w.reason, w.alarms = 2 AS grave)
SELECT t.type, t.reason, t.grave, count(*) AS events FROM told AS t GROUP BY 1, 2, 3 ORDER BY 1, 2, 3;
