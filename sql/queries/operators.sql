-- Keys of the operator API.

-- name: read_operators
-- Why: every process of the operator API reads them about once a second, so that a revocation is in force within five. A key that ended in
-- the last month is known too, so that the log can say whose key was refused and why.
SELECT k.key_id, k.name, k.scopes, k.secret_sha256, k.expires_at,
       CASE WHEN k.revoked_at IS NOT NULL THEN 'revoked_key' WHEN k.expires_at <= now() THEN 'expired_key' END AS ended
  FROM registry.operator_key AS k
 WHERE least(k.revoked_at, k.expires_at) IS NULL OR least(k.revoked_at, k.expires_at) > now() - interval '30 days';

-- name: read_operator_keys
-- Why: a person looks at all keys, the dead ones included.
SELECT k.key_id, k.name, k.scopes, k.created_at, k.expires_at, k.revoked_at, k.last_used_at
  FROM registry.operator_key AS k ORDER BY k.name, k.created_at;

-- name: lock_operator
-- Why: of two commands that make a key under one name the second sees the first one's. The trigger on new keys takes the same lock.
SELECT true AS locked FROM (SELECT pg_advisory_xact_lock(hashtextextended('operator key ' || $1::text, 0))) AS waited;

-- name: read_live_operator_keys
-- Why: a name has two live keys at most, and a new name none.
SELECT k.key_id, k.name, k.scopes, k.created_at, k.expires_at, k.revoked_at, k.last_used_at
  FROM registry.operator_key AS k
 WHERE k.name = $1 AND k.revoked_at IS NULL AND (k.expires_at IS NULL OR k.expires_at > now()) ORDER BY k.created_at;

-- name: touch_operator_keys
-- Why: the last use is kept to the minute, in one statement for all keys.
UPDATE registry.operator_key AS k SET last_used_at = now()
 WHERE k.key_id = ANY ($1::text[]) AND (k.last_used_at IS NULL OR k.last_used_at < now() - interval '1 minute');

-- name: add_operator_key
-- Why: a new name, or the successor of a name's key.
INSERT INTO registry.operator_key (key_id, name, scopes, secret_sha256) VALUES ($1, $2, $3, $4);

-- name: expire_operator_keys
-- Why: rotation: the name's other live key ends when the overlap does.
UPDATE registry.operator_key AS k SET expires_at = least(coalesce(k.expires_at, 'infinity'), now() + $2::interval)
 WHERE k.name = $1 AND k.revoked_at IS NULL AND (k.expires_at IS NULL OR k.expires_at > now());

-- name: revoke_operator_key
-- Why: a key that leaked is refused within five seconds.
UPDATE registry.operator_key AS k SET revoked_at = now() WHERE k.name = $1 AND k.key_id = $2 AND k.revoked_at IS NULL RETURNING k.key_id;
