-- The chain over the journal, as the daemon appends to it. Who verifies it reads it by audit.sql.

-- name: seal_pages
-- Why: once a second instead of with each page, so that no query pays for it and workers take turns at the chain's end.
SELECT registry.seal_pages($1) AS page_ids;
