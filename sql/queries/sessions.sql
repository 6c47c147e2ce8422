-- Sessions of the console.

-- name: open_session
INSERT INTO registry.console_session (session_sha256, key_id) VALUES ($1, $2);

-- name: forget_sessions
-- Why: what has ended is of no use, and one key opens a few sessions at once, so that the table stays small. $1 and $2: how long a session may
-- be idle and how long it may last. $3: the key that opens one now, of which $4 others may stay.
DELETE FROM registry.console_session AS s
 WHERE s.used_at <= now() - $1::interval OR s.began_at <= now() - $2::interval
    OR s.session_sha256 IN (SELECT o.session_sha256 FROM registry.console_session AS o WHERE o.key_id = $3 ORDER BY o.used_at DESC OFFSET $4::integer);

-- name: find_session
-- Why: each page asks whose it is, so a key that was revoked or expired ends its sessions at once. $4: a person asked, so that it is not idle.
WITH live AS (
    SELECT s.session_sha256, k.key_id, k.name, k.scopes
      FROM registry.console_session AS s JOIN registry.operator_key AS k ON k.key_id = s.key_id
     WHERE s.session_sha256 = $1 AND s.used_at > now() - $2::interval AND s.began_at > now() - $3::interval
       AND k.revoked_at IS NULL AND (k.expires_at IS NULL OR k.expires_at > now())
), touched AS (
    UPDATE registry.console_session AS s SET used_at = now() FROM live AS l WHERE s.session_sha256 = l.session_sha256 AND $4::boolean
)
SELECT l.key_id, l.name, l.scopes, now() AS asked_at FROM live AS l;

-- name: end_session
DELETE FROM registry.console_session AS s WHERE s.session_sha256 = $1;
