-- What the policy no longer keeps, but for whole partitions.

-- name: purge_ended
-- Why: which ones go is the database's to say, as with partitions; a batch a transaction, so that none holds locks for long.
SELECT p.bindings, p.contracts FROM registry.purge_ended($1) AS p;

-- name: forget_replays
SELECT registry.forget_replays($1) AS forgotten;

-- name: forget_events
SELECT registry.forget_events($1) AS forgotten;

-- name: forget_records
SELECT registry.forget_records($1) AS forgotten;
