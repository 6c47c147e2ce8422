-- The law as dated data.

-- name: read_policies
-- Why: past, in force and planned, each as an object of its columns, so that a new column needs no other program.
SELECT row_to_json(p)::text AS columns FROM report.policy AS p ORDER BY p.effective_from;

-- name: change_policy
-- Why: a new row that repeats what does not change. Without a time it is in force at once, by the database's clock.
SELECT row_to_json(p)::text AS columns FROM registry.change_policy($1::text::jsonb, coalesce($2::timestamptz, now()), $3) AS p;

-- name: interval_columns
-- Why: an interval without a unit is seconds to PostgreSQL, and nobody means those.
SELECT a.attname::text AS name FROM pg_catalog.pg_attribute AS a
 WHERE a.attrelid = 'registry.policy'::regclass AND a.atttypid IN ('interval'::regtype, 'interval[]'::regtype);
