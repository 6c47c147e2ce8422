-- Which reports there are, and the bound on how long one may take.

-- name: list_views
SELECT c.relname::text AS name, coalesce(obj_description(c.oid, 'pg_class'), '') AS comment
  FROM pg_catalog.pg_class AS c
 WHERE c.relnamespace = to_regnamespace('report') AND c.relkind = 'v'
 ORDER BY c.relname;

-- name: list_columns
SELECT a.attname::text AS name, format_type(a.atttypid, NULL) AS type, coalesce(col_description(a.attrelid, a.attnum), '') AS comment
  FROM pg_catalog.pg_attribute AS a
 WHERE a.attrelid = to_regclass(format('report.%I', $1::text)) AND a.attnum > 0 AND NOT a.attisdropped
 ORDER BY a.attnum;

-- name: end_long_reports
-- Why: a session of the report role can switch off its own limits. This one it cannot.
SELECT registry.end_long_reports($1::interval) AS ended;
