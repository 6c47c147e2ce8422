-- What stands in tables and changes slowly, for the metrics.

-- name: read_standing
-- Why: what a person would otherwise have to look for: digests that nobody receives, replays, requests of messengers, days without a partition, evidence that nobody verifies.
SELECT (SELECT count(*) FROM registry.digest AS d WHERE d.delivered_at IS NULL) AS digests_undelivered,
       (SELECT count(*) FROM registry.replay AS r WHERE r.finished_at IS NULL) AS replays_waiting,
       (SELECT count(*) FROM registry.change_request AS c WHERE c.outcome IS NULL AND c.expires_at > now()) AS changes_waiting,
       registry.partitions_ahead() AS partitions_ahead, v.verified_at, coalesce(v.findings, 0) AS findings
  FROM (SELECT) AS one LEFT JOIN registry.last_verification AS v ON true;

-- name: count_steps
-- Why: whoever watches sees that somebody looked at a number or undid an end, without reading the log.
SELECT s.step, s.steps FROM registry.breakglass_steps() AS s ORDER BY s.step;

-- name: read_key_ends
-- Why: a caller whose last key ends is refused from then on. One that has a key without an end, or none at all, is not told of.
SELECT m.name AS caller, max(k.expires_at) AS ends_at
  FROM registry.messenger_key AS k JOIN registry.messenger AS m ON m.messenger_id = k.messenger_id
 WHERE k.revoked_at IS NULL AND coalesce(k.expires_at, 'infinity') > now()
 GROUP BY m.name HAVING bool_and(k.expires_at IS NOT NULL AND k.expires_at < 'infinity')
UNION ALL
SELECT 'operator/' || o.name, max(o.expires_at)
  FROM registry.operator_key AS o
 WHERE o.revoked_at IS NULL AND coalesce(o.expires_at, 'infinity') > now()
 GROUP BY o.name HAVING bool_and(o.expires_at IS NOT NULL AND o.expires_at < 'infinity')
 ORDER BY caller;
