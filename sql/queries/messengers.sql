-- Messengers, their keys and signing secrets.

-- name: read_directory
-- Why: who may ask: read whole every second or two by every process, so that a revocation is in force within five.
SELECT m.messenger_id, m.name, m.state, m.endpoint_url, m.batch_max, m.includes_phone_number, m.daily_quota, m.certificate_sha256
  FROM registry.messenger AS m ORDER BY m.messenger_id;

-- name: read_known_keys
-- Why: a key that ended in the last month is known too, so that the log can say whose key was refused and why.
SELECT k.key_id, k.messenger_id, k.secret_sha256, k.expires_at,
       CASE WHEN k.revoked_at IS NOT NULL THEN 'revoked_key' WHEN k.expires_at <= now() THEN 'expired_key' END AS ended
  FROM registry.messenger_key AS k
 WHERE least(k.revoked_at, k.expires_at) IS NULL OR least(k.revoked_at, k.expires_at) > now() - interval '30 days';

-- name: read_keys
-- Why: an operator looks at one messenger's keys, the dead ones included.
SELECT k.key_id, k.created_at, k.expires_at, k.revoked_at, k.last_used_at
  FROM registry.messenger_key AS k WHERE k.messenger_id = $1 ORDER BY k.created_at;

-- name: read_live_keys
-- Why: a messenger has two live keys at most; and one that is left when another was revoked may be a thief's.
SELECT k.key_id, k.created_at, k.expires_at, k.revoked_at, k.last_used_at
  FROM registry.messenger_key AS k
 WHERE k.messenger_id = $1 AND k.revoked_at IS NULL AND (k.expires_at IS NULL OR k.expires_at > now()) ORDER BY k.created_at;

-- name: read_own_keys
-- Why: a messenger looks at its keys: those that work, and those that ended in the last month.
SELECT k.key_id, k.created_at, k.expires_at, k.revoked_at, k.last_used_at
  FROM registry.messenger_key AS k
 WHERE k.messenger_id = $1
   AND (least(k.revoked_at, k.expires_at) IS NULL OR least(k.revoked_at, k.expires_at) > now() - interval '30 days')
 ORDER BY k.created_at DESC, k.key_id
 LIMIT 100;

-- name: count_new_keys
-- Why: every process reads all keys of the last month each second, so that a messenger makes few a day.
SELECT count(*)::integer AS made FROM registry.messenger_key AS k WHERE k.messenger_id = $1 AND k.created_at > now() - interval '1 day';

-- name: read_answer_policy
SELECT p.answer_within, p.notice_within FROM registry.policy_in_force(now()) AS p;

-- name: touch_keys
-- Why: last use to the minute, in one statement for all.
UPDATE registry.messenger_key AS k SET last_used_at = now()
 WHERE k.key_id = ANY ($1::text[]) AND (k.last_used_at IS NULL OR k.last_used_at < now() - interval '1 minute');

-- name: add_messenger
INSERT INTO registry.messenger (name, agreement, register_no, endpoint_url, batch_max, includes_phone_number, daily_quota, certificate_sha256)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8)
RETURNING messenger_id;

-- name: lock_messenger
-- Why: a command reads the row and writes it whole, so between the two nobody else may change it, such as by confirming another endpoint.
SELECT m.messenger_id FROM registry.messenger AS m WHERE m.name = $1 FOR NO KEY UPDATE;

-- name: set_messenger
-- Why: the command changes what it names; it reads the row, which it has locked, and writes it whole.
UPDATE registry.messenger AS m
   SET endpoint_url = $2, batch_max = $3, includes_phone_number = $4, daily_quota = $5, certificate_sha256 = $6,
       state = $7::registry.messenger_state, suspended_at = CASE WHEN $7::text = 'suspended' THEN coalesce(m.suspended_at, now()) END
 WHERE m.messenger_id = $1
RETURNING m.messenger_id;

-- name: set_quota
-- Why: a person has seen what it is ($2) and said what it is to be ($3): where it changed meanwhile, nothing is done.
UPDATE registry.messenger AS m SET daily_quota = $3 WHERE m.messenger_id = $1 AND m.daily_quota IS NOT DISTINCT FROM $2 RETURNING m.messenger_id;

-- name: add_key
INSERT INTO registry.messenger_key (key_id, messenger_id, secret_sha256) VALUES ($1, $2, $3);

-- name: expire_keys
-- Why: rotation: every other live key ends when the overlap does.
UPDATE registry.messenger_key AS k SET expires_at = least(coalesce(k.expires_at, 'infinity'), now() + $2::interval)
 WHERE k.messenger_id = $1 AND k.revoked_at IS NULL AND (k.expires_at IS NULL OR k.expires_at > now())
RETURNING k.key_id, k.expires_at;

-- name: revoke_key
UPDATE registry.messenger_key AS k SET revoked_at = now() WHERE k.key_id = $1 AND k.revoked_at IS NULL RETURNING k.key_id;

-- name: revoke_own_key
-- Why: a messenger revokes a key of its own, and learns when a repeated call had done so.
UPDATE registry.messenger_key AS k SET revoked_at = coalesce(k.revoked_at, now()) WHERE k.messenger_id = $1 AND k.key_id = $2
RETURNING k.key_id, k.created_at, k.expires_at, k.revoked_at, k.last_used_at;

-- name: add_secret
INSERT INTO registry.messenger_secret (messenger_id, kind, ciphertext) VALUES ($1, $2::registry.secret_kind, $3);

-- name: expire_secrets
UPDATE registry.messenger_secret AS s SET expires_at = least(coalesce(s.expires_at, 'infinity'), now() + $3::interval)
 WHERE s.messenger_id = $1 AND s.kind = $2::registry.secret_kind AND (s.expires_at IS NULL OR s.expires_at > now());

-- name: read_live_secrets
SELECT s.kind, s.ciphertext, s.to_public
  FROM registry.messenger_secret AS s
 WHERE s.messenger_id = $1 AND (s.expires_at IS NULL OR s.expires_at > now())
 ORDER BY s.created_at DESC;

-- name: read_sealed_secrets
-- Why: `check` opens each, and `secrets rewrap` seals each anew.
SELECT s.secret_id, s.messenger_id, m.name, s.ciphertext, s.to_public
  FROM registry.messenger_secret AS s JOIN registry.messenger AS m ON m.messenger_id = s.messenger_id
 ORDER BY s.secret_id;

-- name: reseal_secret
-- Why: the same secret under another key; what it was sealed under before is no longer needed to read it.
UPDATE registry.messenger_secret AS s SET ciphertext = $2, to_public = false WHERE s.secret_id = $1;

-- name: read_key_uses
-- Why: whose last key ends soon, and who has not been heard of, is seen in the list of messengers.
SELECT r.messenger, r.keys_expire_at, r.last_used_at FROM report.messenger AS r;

-- name: read_all_keys
-- Why: a person looks at everybody's keys; those that ended longer ago than 30 days are of no use to anybody.
SELECT m.name AS messenger, k.key_id, k.created_at, k.expires_at, k.revoked_at, k.last_used_at
  FROM registry.messenger_key AS k JOIN registry.messenger AS m ON m.messenger_id = k.messenger_id
 WHERE least(k.revoked_at, k.expires_at) IS NULL OR least(k.revoked_at, k.expires_at) > now() - interval '30 days'
 ORDER BY m.name, k.created_at;

-- name: read_all_secrets
-- Why: the same for signing secrets, without the secrets.
SELECT m.name AS messenger, s.kind, s.created_at, s.expires_at
  FROM registry.messenger_secret AS s JOIN registry.messenger AS m ON m.messenger_id = s.messenger_id
 WHERE s.expires_at IS NULL OR s.expires_at > now() - interval '30 days'
 ORDER BY m.name, s.kind, s.created_at;

-- name: describe_messenger
-- Why: whoever looks at a messenger sees the agreement that it has.
SELECT m.name, m.state, m.agreement, m.register_no, m.created_at, m.suspended_at, m.includes_phone_number, m.batch_max
  FROM registry.messenger AS m WHERE m.name = $1;
