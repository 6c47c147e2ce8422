-- The bound on what may end or turn absent at once.

-- name: ends_left
-- Why: every path that may end many contracts asks the same function.
SELECT registry.ends_left() AS ends;

-- name: count_live
-- Why: a bound that is a share is one of the live contracts.
SELECT registry.live_contracts() AS live;

-- name: allow_now
-- Why: a person has given this import a bound of its own, so the trigger must not hold its notifications. The allowance counts in this
-- transaction alone: now() is the transaction's beginning.
INSERT INTO registry.wave_allowance (ends, until_at, reason) VALUES ($1, now() + interval '1 microsecond', $2);
