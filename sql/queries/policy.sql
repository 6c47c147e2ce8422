-- The law as dated data.

-- name: read_policies
-- Why: policies past, in force and planned. Each is one JSON object, so that a new column needs no new program.
SELECT row_to_json(p)::text AS columns FROM report.policy AS p ORDER BY p.effective_from;

-- name: change_policy
-- Why: the new row repeats what does not change. Without a time it is in force at once, by the database's clock.
SELECT row_to_json(p)::text AS columns FROM registry.change_policy($1::text::jsonb, coalesce($2::timestamptz, now()), $3) AS p;

-- name: count_turned
-- Why: says whom a change of the rule would turn, by the function that answers queries. One scan: only suspended contracts and those without a
-- registered end user can turn.
SELECT count(*) FILTER (WHERE rule.before AND NOT rule.after) AS absent, count(*) FILTER (WHERE rule.after AND NOT rule.before) AS present
  FROM registry.contract AS c
 CROSS JOIN LATERAL (SELECT registry.is_present(c.status, c.unverified, $1::text::registry.organisation_rule, $2::boolean) AS before,
                            registry.is_present(c.status, c.unverified, $3::text::registry.organisation_rule, $4::boolean) AS after) AS rule
 WHERE c.ended_at IS NULL AND (c.status = 'suspended' OR c.unverified);

-- name: read_law
-- Why: the rule that is in force, whether anybody has chosen it, when the law lapses without a successor that is planned by then, and when a planned
-- policy begins within two days that keeps something for less time: until then a slip can be deleted. The first migration writes one row.
SELECT p.organisation_rule::text AS organisation_rule, p.suspended_is_present, (SELECT count(*) FROM registry.policy) > 1 AS is_chosen,
       l.lapses_at, extract(epoch FROM l.lapses_at - now())::float8 AS lapses_s, p.answer_within, p.notice_within, p.effective_from, p.note,
       (SELECT min(n.effective_from) FROM registry.policy AS n WHERE n.effective_from > now()) AS next_from,
       (SELECT min(n.effective_from) FROM registry.policy AS n
         WHERE n.effective_from > now() AND n.effective_from < now() + interval '2 days'
           AND (now() - n.journal_kept > now() - p.journal_kept OR now() - n.notification_kept > now() - p.notification_kept
                OR now() - n.ended_kept > now() - p.ended_kept)) AS keeps_less_from
  FROM registry.policy_in_force(now()) AS p
 CROSS JOIN (SELECT min(o.lapses_at) AS lapses_at FROM registry.policy AS o
              WHERE o.effective_from >= (SELECT f.effective_from FROM registry.policy_in_force(now()) AS f)
                AND NOT EXISTS (SELECT FROM registry.policy AS s WHERE s.effective_from > o.effective_from AND s.effective_from <= o.lapses_at)) AS l;

-- name: interval_columns
-- Why: to PostgreSQL an interval without a unit is seconds, which nobody means, so these columns are checked for one.
SELECT a.attname::text AS name FROM pg_catalog.pg_attribute AS a
 WHERE a.attrelid = 'registry.policy'::regclass AND a.atttypid IN ('interval'::regtype, 'interval[]'::regtype);
