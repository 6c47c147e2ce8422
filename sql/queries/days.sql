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
