-- The journal's housekeeping and the shared count of what each messenger asked. The pages themselves are written by presence.sql.

-- name: make_partitions
-- Why: the days ahead, made by the daemon itself; another worker that is at it is waited for.
SELECT registry.make_partitions((now() AT TIME ZONE 'UTC')::date, $1) AS made;

-- name: close_day
-- Why: a day that is over is counted once, so that reports cost the same whatever was asked; another worker that is at it is not waited for.
SELECT registry.close_day($1) AS day;

-- name: drop_day
-- Why: which day goes is the database's to say, from the policy in force; the daemon only asks.
SELECT registry.drop_day($1) AS day;

-- name: read_retention
-- Why: what should be zero, for the metrics.
SELECT s.family, s.unplaced_rows, s.days_over FROM registry.retention_state() AS s ORDER BY s.family;

-- name: add_usage
-- Why: each worker adds what it answered since the last time and learns the sum over all of them.
INSERT INTO registry.quota_usage AS u (messenger_id, day, used, absent)
SELECT n.messenger_id, n.day, n.used, n.absent
  FROM unnest($1::integer[], $2::date[], $3::bigint[], $4::bigint[]) AS n(messenger_id, day, used, absent)
 ORDER BY n.messenger_id, n.day
    ON CONFLICT (messenger_id, day) DO UPDATE SET used = u.used + excluded.used, absent = u.absent + excluded.absent;

-- name: read_usage
SELECT u.messenger_id, u.used, u.absent FROM registry.quota_usage AS u WHERE u.day = $1;
