-- What there is to report.

-- name: list_views
SELECT c.relname::text AS name, coalesce(obj_description(c.oid, 'pg_class'), '') AS comment
  FROM pg_catalog.pg_class AS c
 WHERE c.relnamespace = to_regnamespace('report') AND c.relkind = 'v'
 ORDER BY c.relname;
