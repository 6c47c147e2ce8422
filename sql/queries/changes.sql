-- Change requests: what messengers ask for, and what a person decides.

-- name: read_sealing_key
SELECT k.public_key FROM registry.sealing_key AS k;

-- name: publish_sealing_key
-- Why: whoever has secrets-key writes its public half where it differs, so that others can seal to it.
INSERT INTO registry.sealing_key AS k (public_key) VALUES ($1)
    ON CONFLICT (one) DO UPDATE SET public_key = excluded.public_key, published_at = now() WHERE k.public_key <> excluded.public_key;

-- name: request_change
SELECT r.outcome, r.change_id, r.requested_at, r.expires_at
  FROM registry.request_change($1, $2::registry.change_kind, $3, $4, $5, $6, $7) AS r;

-- name: decide_change
SELECT registry.decide_change($1, $2::registry.change_outcome, $3, $4, $5) AS outcome;

-- name: read_changes
-- Why: people see what waits, and what was decided or expired in the last 30 days. What waits comes first.
SELECT c.change_id, c.messenger_id, c.messenger, c.kind, c.state, c.endpoint_url, c.present_url, c.requested_at, c.requested_by, c.expires_at,
       c.decided_at, c.decided_by, c.reason
  FROM registry.change AS c
 WHERE coalesce(c.decided_at, c.expires_at) > now() - interval '30 days'
 ORDER BY c.state = 'waiting' DESC, c.change_id DESC
 LIMIT 1000;

-- name: find_change
SELECT c.change_id, c.messenger_id, c.messenger, c.kind, c.state, c.endpoint_url, c.present_url, c.requested_at, c.requested_by, c.expires_at,
       c.decided_at, c.decided_by, c.reason
  FROM registry.change AS c
 WHERE c.change_id = $1;

-- name: read_own_changes
-- Why: the account tells a messenger what became of its requests of the last 30 days, the newest first.
SELECT c.change_id, c.messenger_id, c.messenger, c.kind, c.state, c.endpoint_url, c.present_url, c.requested_at, c.requested_by, c.expires_at,
       c.decided_at, c.decided_by, c.reason
  FROM registry.change AS c
 WHERE c.messenger_id = $1 AND c.requested_at > now() - interval '30 days'
 ORDER BY c.change_id DESC
 LIMIT 10;
