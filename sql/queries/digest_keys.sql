-- The journal's digest keys, one a month.

-- name: read_today
-- Why: a key is destroyed with its month's journal, so what is written today must be under today's.
SELECT (now() AT TIME ZONE 'UTC')::date AS today;

-- name: read_sealed_keys
SELECT k.key_id, k.month, k.ciphertext FROM registry.digest_key AS k WHERE k.destroyed_at IS NULL ORDER BY k.month;

-- name: add_sealed_key
-- Why: all processes make the same month's key and the first one's stays.
INSERT INTO registry.digest_key (key_id, month, ciphertext) VALUES ($1, $2, $3) ON CONFLICT DO NOTHING;

-- name: destroy_over_keys
-- Why: whose month is over is the database's to say, as with days.
SELECT d.month FROM registry.destroy_digest_keys() AS d(month);
