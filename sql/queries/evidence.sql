-- What is kept as evidence, for people who look.

-- name: read_families
-- Why: how much there is, and what should be zero.
SELECT r.family, r.partitions, r.oldest, r.made_until, r.size_bytes, r.parts_over, r.unplaced_rows FROM report.retention AS r ORDER BY r.family;

-- name: read_chain_end
SELECT e.seals, e.sequence, e.sealed_at, e.sealed_until, registry.unsealed_s() AS unsealed_s, e.unsealed_pages, e.log_entries FROM registry.chain_end() AS e;

-- name: read_verified
SELECT v.verified_at, v.verified_by, v.pages, v.findings FROM registry.last_verification AS v;

-- name: count_digest_keys
-- Why: a destroyed key is the proof that its month's numbers are forgotten.
SELECT count(*) FILTER (WHERE k.destroyed_at IS NULL)::integer AS kept, count(k.destroyed_at)::integer AS destroyed,
       min(k.month) FILTER (WHERE k.destroyed_at IS NULL) AS oldest_kept
  FROM registry.digest_key AS k;

-- name: read_open_requests
-- Why: whoever may approve sees that somebody waits; numbers are masked.
SELECT r.request, r.kind, r.requested_at, r.requested_by, r.number, r.scope, r.reason, r.is_prepared, r.approved_by, r.ends_at
  FROM registry.open_requests() AS r;
