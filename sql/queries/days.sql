-- The housekeeping of partitions and figures.

-- name: make_partitions
-- Why: the next days' partitions are made ahead by the daemon itself; another process that is at it is waited for.
SELECT registry.make_partitions((now() AT TIME ZONE 'UTC')::date, $1) AS made;

-- name: drop_part
-- Why: which partition goes is the database's to say, from the policy in force; the daemon only asks.
SELECT registry.drop_part($1) AS day;

-- name: fold_movements
-- Why: what triggers appended becomes few rows, for the reports to sum; another process that is at it is not waited for.
SELECT registry.fold_movements() AS folded;

-- name: fold_ends
-- Why: each end sums what ended in the last hour, so that is folded every few seconds.
SELECT registry.fold_ends() AS folded;

-- name: read_retention
-- Why: what should be zero, for the metrics.
SELECT s.family, s.unplaced_rows, s.parts_over FROM registry.retention_state() AS s ORDER BY s.family;

-- name: partitions_wait_for
-- Why: a partition is attached once nobody reads the default one; the alarm names which person or program does (autovacuum, which is nobody, gives way).
SELECT DISTINCT format('%s (pid %s)', a.usename, a.pid) AS holder
  FROM pg_locks AS l JOIN pg_stat_activity AS a ON a.pid = l.pid
 WHERE l.granted AND a.usename IS NOT NULL AND a.pid <> pg_backend_pid() AND l.database = (SELECT d.oid FROM pg_database AS d WHERE d.datname = current_database())
   AND l.relation = ANY (ARRAY['registry.journal_page_default', 'registry.notification_delivered_default', 'registry.delivery_attempt_default']::regclass[]);
