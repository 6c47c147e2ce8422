-- The journal's housekeeping. The pages themselves are written by presence.sql.

-- name: make_partitions
-- Why: the days ahead, made by the daemon itself; another worker that is at it is waited for.
SELECT registry.make_partitions((now() AT TIME ZONE 'UTC')::date, $1) AS made;

-- name: close_day
-- Why: a day that is over is counted once, so that reports cost the same whatever was asked; another worker that is at it is not waited for.
SELECT registry.close_day($1) AS day;

-- name: drop_day
-- Why: which day goes is the database's to say, from the policy in force; the daemon only asks.
SELECT registry.drop_day($1) AS day;

-- name: fold_movements
-- Why: what triggers appended becomes few rows, for the reports to sum; another worker that is at it is not waited for.
SELECT registry.fold_movements() AS folded;

-- name: read_retention
-- Why: what should be zero, for the metrics.
SELECT s.family, s.unplaced_rows, s.days_over FROM registry.retention_state() AS s ORDER BY s.family;
