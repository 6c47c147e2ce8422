-- What there is to report, and how long a report may go on.

-- name: list_views
SELECT c.relname::text AS name, coalesce(obj_description(c.oid, 'pg_class'), '') AS comment
  FROM pg_catalog.pg_class AS c
 WHERE c.relnamespace = to_regnamespace('report') AND c.relkind = 'v'
 ORDER BY c.relname;

-- name: end_long_reports
-- Why: a report role may set its own limits off; the daemon's are not its own.
SELECT registry.end_long_reports($1::interval) AS ended;
