-- The law as dated data.

-- name: read_policies
-- Why: policies past, in force and planned. Each is one JSON object, so that a new column needs no new program.
SELECT row_to_json(p)::text AS columns FROM report.policy AS p ORDER BY p.effective_from;

-- name: change_policy
-- Why: the new row repeats what does not change. Without a time it is in force at once, by the database's clock.
SELECT row_to_json(p)::text AS columns FROM registry.change_policy($1::text::jsonb, coalesce($2::timestamptz, now()), $3) AS p;

-- name: interval_columns
-- Why: to PostgreSQL an interval without a unit is seconds, which nobody means, so these columns are checked for one.
SELECT a.attname::text AS name FROM pg_catalog.pg_attribute AS a
 WHERE a.attrelid = 'registry.policy'::regclass AND a.atttypid IN ('interval'::regtype, 'interval[]'::regtype);
