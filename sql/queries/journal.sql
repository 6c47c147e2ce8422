-- The journal's housekeeping. The pages themselves are written by presence.sql.

-- name: make_partitions
-- Why: the days ahead, made by the daemon itself; another worker that is at it is waited for.
SELECT registry.make_partitions((now() AT TIME ZONE 'UTC')::date, $1) AS made;
