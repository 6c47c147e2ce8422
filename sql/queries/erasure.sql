-- What the policy no longer keeps of contracts and bindings.

-- name: purge_ended
-- Why: which ones go is the database's to say, as with days; a batch a transaction, so that none holds locks for long.
SELECT p.bindings, p.contracts FROM registry.purge_ended($1) AS p;
