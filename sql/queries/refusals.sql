-- Refusals by day, messenger and reason.

-- name: add_refusals
-- Why: each process adds what it has refused since the last time. It tells how long ago, because only the database's clock makes days. What a
-- messenger was refused that a DBA has deleted meanwhile is left out: it would stop the others' from being added.
INSERT INTO registry.refusal_day AS r (day, messenger_id, reason, refusals)
SELECT ((now() - n.seconds_ago * interval '1 second') AT TIME ZONE 'UTC')::date AS day, n.messenger_id, n.reason, sum(n.refusals)
  FROM unnest($1::integer[], $2::text[], $3::float8[], $4::bigint[]) AS n(messenger_id, reason, seconds_ago, refusals)
  JOIN registry.messenger AS m ON m.messenger_id = n.messenger_id
 GROUP BY 1, 2, 3 ORDER BY 1, 2, 3
    ON CONFLICT (day, messenger_id, reason) DO UPDATE SET refusals = r.refusals + excluded.refusals;
