-- What the processes share of the enumeration guard: usage, alarms and measures. Each process exchanges it about once a second.

-- name: add_usage
-- Why: each process adds what it has answered since the last exchange, so that the row holds the sum over all of them. A messenger that a DBA
-- has deleted meanwhile is left out: it would stop the exchange for all the others.
INSERT INTO registry.quota_usage AS u (messenger_id, day, used, absent)
SELECT n.messenger_id, n.day, n.used, n.absent
  FROM unnest($1::integer[], $2::date[], $3::bigint[], $4::bigint[]) AS n(messenger_id, day, used, absent)
  JOIN registry.messenger AS m ON m.messenger_id = n.messenger_id
 ORDER BY n.messenger_id, n.day
    ON CONFLICT (messenger_id, day) DO UPDATE SET used = u.used + excluded.used, absent = u.absent + excluded.absent;

-- name: read_usage
SELECT u.messenger_id, u.used, u.absent FROM registry.quota_usage AS u WHERE u.day = $1;

-- name: raise_alarms
-- Why: a sign prolongs the messenger's alarm of its kind, or raises one; a deleted messenger has none. Two processes that see a sign at once have just waited for each
-- other in add_usage, so the second one finds the alarm of the first.
WITH sign AS MATERIALIZED (
    SELECT s.messenger_id, s.kind::registry.alarm_kind AS kind, now() + p.alarm_lasts AS ends_at
      FROM unnest($1::integer[], $2::text[]) AS s(messenger_id, kind)
      JOIN registry.messenger AS m ON m.messenger_id = s.messenger_id
     CROSS JOIN registry.policy_in_force(now()) AS p
), prolonged AS (
    UPDATE registry.enumeration_alarm AS a SET ends_at = greatest(a.ends_at, s.ends_at), signs = a.signs + 1
      FROM sign AS s
     WHERE a.messenger_id = s.messenger_id AND a.kind = s.kind AND a.cleared_at IS NULL AND a.ends_at > now()
    RETURNING a.messenger_id, a.kind
), added AS (
    INSERT INTO registry.enumeration_alarm (messenger_id, kind, ends_at)
    SELECT s.messenger_id, s.kind, s.ends_at FROM sign AS s
     WHERE NOT EXISTS (SELECT FROM prolonged AS p WHERE p.messenger_id = s.messenger_id AND p.kind = s.kind)
    RETURNING messenger_id, kind
)
SELECT m.name, a.kind, true AS is_new FROM added AS a JOIN registry.messenger AS m ON m.messenger_id = a.messenger_id
UNION ALL
SELECT m.name, p.kind, false FROM prolonged AS p JOIN registry.messenger AS m ON m.messenger_id = p.messenger_id;

-- name: read_throttled
-- Why: it tells how much longer, not until when, because a process's clock need not be the database's.
SELECT a.messenger_id, least(max(a.ends_at), now() + interval '1 year') - now() AS remaining
  FROM registry.enumeration_alarm AS a
 WHERE a.cleared_at IS NULL AND a.ends_at > now()
 GROUP BY a.messenger_id;

-- name: read_measures
-- Why: a canary stops being one as soon as its number has had a contract.
SELECT p.honest_absent_ratio::float8 AS honest_absent_ratio, p.scan_absent_ratio::float8 AS scan_absent_ratio,
       p.honest_density::float8 AS honest_density, p.honest_queries_per_alarm, p.alarm_lasts, p.alarm_queries_per_minute,
       ARRAY(SELECT n.msisdn FROM registry.canary_number AS n
              WHERE NOT EXISTS (SELECT FROM registry.contract AS c WHERE c.msisdn = n.msisdn)) AS canaries
  FROM registry.policy_in_force(now()) AS p;

-- name: find_alarms
-- Why: the operator looks at a messenger.
SELECT a.kind, a.raised_at, a.ends_at, a.signs
  FROM registry.enumeration_alarm AS a
 WHERE a.messenger_id = $1 AND a.cleared_at IS NULL AND a.ends_at > now()
 ORDER BY a.raised_at;

-- name: read_alarms
-- Why: what looked like a search and whether it still slows anybody down, $1 of them at most.
SELECT a.messenger, a.kind, a.in_force, a.raised_at, a.ends_at, a.cleared_at, a.signs, a.used_that_day, a.absent_that_day,
       a.absent_ratio_that_day::float8 AS absent_ratio_that_day
  FROM report.enumeration_alarm AS a ORDER BY a.in_force DESC, a.raised_at DESC, a.messenger LIMIT $1;

-- name: count_alarms
SELECT (SELECT count(*) FROM registry.enumeration_alarm AS a WHERE a.cleared_at IS NULL AND a.ends_at > now()) AS alarms,
       p.alarm_queries_per_minute AS queries_per_minute
  FROM registry.policy_in_force(now()) AS p;

-- name: clear_alarms
UPDATE registry.enumeration_alarm AS a SET cleared_at = now()
 WHERE a.messenger_id = $1 AND a.cleared_at IS NULL AND a.ends_at > now()
RETURNING a.kind;
