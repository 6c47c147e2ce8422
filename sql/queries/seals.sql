-- The chain over the journal, as the daemon appends to it. Who verifies it reads it by audit.sql.

-- name: seal_window
-- Why: one window a call, so that no transaction is long; no row where nothing is to be sealed now.
SELECT w.pages, w.queries FROM registry.seal_window() AS w;

-- name: read_unsealed
SELECT registry.unsealed_s() AS unsealed_s;
