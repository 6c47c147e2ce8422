-- The daily digest: one for each messenger and day, made when the day is over, pushed until it is received.

-- name: read_missing
-- Why: the days without a digest since the messenger was added, a week back at most; a day is over ten minutes after midnight, when every
-- settlement of it has committed.
SELECT m.messenger_id, missing.day::date AS day
  FROM registry.messenger AS m
 CROSS JOIN (SELECT (now() AT TIME ZONE 'UTC' - interval '10 minutes')::date - 1 AS day) AS yesterday
 CROSS JOIN LATERAL (SELECT max(d.day) AS day FROM registry.digest AS d WHERE d.messenger_id = m.messenger_id) AS latest
 CROSS JOIN LATERAL generate_series(greatest(coalesce(latest.day + 1, yesterday.day), yesterday.day - 6), yesterday.day, interval '1 day')
            AS missing(day)
 WHERE m.endpoint_url IS NOT NULL AND missing.day >= (m.created_at AT TIME ZONE 'UTC')::date
 ORDER BY m.messenger_id, missing.day;

-- name: read_delivered
-- Why: a day's ids in order, a page at a time: first deliveries from the one partition that holds the day, and what was replayed.
SELECT p.notification_id FROM registry.delivered_on($1, $2, $3, $4) AS p;

-- name: add_digest
-- Why: a day has one digest, whoever makes it.
INSERT INTO registry.digest (messenger_id, day, notifications, first_id, last_id, sha256) VALUES ($1, $2, $3, $4, $5, $6)
    ON CONFLICT DO NOTHING;

-- name: claim_digests
-- Why: whoever pushes one has it for a while, and it is due again if nothing is heard of it; gaps grow to an hour and it is never given up.
UPDATE registry.digest AS d
   SET attempts = d.attempts + 1, not_before = now() + least(interval '1 minute' * power(2, least(d.attempts, 6)), interval '1 hour')
  FROM registry.messenger AS m
 WHERE m.messenger_id = d.messenger_id
   AND (d.messenger_id, d.day) IN (SELECT due.messenger_id, due.day
                                     FROM registry.digest AS due JOIN registry.messenger AS to_whom USING (messenger_id)
                                    WHERE due.delivered_at IS NULL AND due.not_before <= now() AND to_whom.endpoint_url IS NOT NULL
                                    ORDER BY due.not_before LIMIT 100 FOR UPDATE OF due SKIP LOCKED)
RETURNING d.messenger_id, m.name, m.endpoint_url, d.day, d.notifications, d.first_id, d.last_id, d.sha256, d.made_at;

-- name: settle_digest
UPDATE registry.digest AS d SET delivered_at = CASE WHEN $3::text IS NULL THEN now() END, last_error = $3
 WHERE d.messenger_id = $1 AND d.day = $2 AND d.delivered_at IS NULL;
