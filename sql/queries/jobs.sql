-- The lock that lets one process at a time do a job.

-- name: try_job
SELECT pg_try_advisory_xact_lock(hashtextextended('registry.job.' || $1::text, 0)) AS is_ours;
