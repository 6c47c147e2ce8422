-- Whether the evidence is what was written. Run as registryd_owner: nobody else may read all of it.
--
-- Hashes are made here by PostgreSQL's own functions and none of schema registry, which whoever tampers with its tables could replace too.

-- name: read_chain
-- Why: each seal with what it should say, in the chain's order. A policy that kept the journal for longer than a retention seal claims
-- or a forgotten seal claims shows there: `may_be_gone` is the day that the policy in force allowed. No seal covers the policy, so its row is told.
SELECT s.sequence, s.sealed_at, s.kind::text AS kind, s.note, cardinality(s.page_ids) AS pages, s.page_ids[1] AS first_page,
       s.page_ids[cardinality(s.page_ids)] AS last_page, s.content, s.previous, s.sha256,
       sha256(s.previous || int8send(s.sequence) || timestamptz_send(s.sealed_at) || array_send(s.page_ids) || s.marks || s.content
              || convert_to(s.kind::text || s.note, 'UTF8')) AS expected,
       ((s.sealed_at - p.journal_kept) AT TIME ZONE 'UTC')::date AS may_be_gone, p.effective_from, p.recorded_at, p.journal_kept::text AS journal_kept
  FROM registry.seal AS s
  LEFT JOIN LATERAL (SELECT l.journal_kept, l.effective_from, l.recorded_at FROM registry.policy AS l
                      WHERE s.kind IN ('retention', 'forgotten') AND l.effective_from <= s.sealed_at
                      ORDER BY l.effective_from DESC LIMIT 1) AS p ON true
 ORDER BY s.sequence;

-- name: find_broken_seals
-- Why: a run of seals ($1 to $2) beside their pages ($3 to $4), those that fit left out. Of a seal some of whose pages were dropped by
-- the policy (below $5) the others are held to their marks. No page is named where the seal itself is what does not fit.
WITH sealed AS (
    SELECT s.sequence, s.content, u.page_id, u.place, substring(s.marks FROM 4 * u.place::integer - 3 FOR 4) AS mark, coalesce(u.page_id < $5, false) AS dropped
      FROM registry.seal AS s CROSS JOIN LATERAL unnest(s.page_ids) WITH ORDINALITY AS u(page_id, place)
     WHERE s.sequence BETWEEN $1 AND $2
), hashed AS MATERIALIZED (
    SELECT d.*, p.page_id IS NULL AS missing,
           sha256(uuid_send(p.page_id) || timestamptz_send(p.received_at) || timestamptz_send(p.answered_at) || int4send(p.messenger_id)
                  || int4send(p.queries) || int4send(p.present_count) || int2send(p.digest_key) || p.digests || varbit_send(p.present)) AS hash
      FROM sealed AS d
      LEFT JOIN registry.journal_page AS p ON p.page_id = d.page_id AND p.page_id BETWEEN $3 AND $4
), judged AS (
    SELECT h.sequence,
           array_agg(h.page_id ORDER BY h.place) FILTER (WHERE h.missing AND NOT h.dropped) AS missing,
           array_agg(h.page_id ORDER BY h.place) FILTER (WHERE substring(h.hash FROM 1 FOR 4) <> h.mark AND NOT h.dropped) AS changed,
           bool_or(h.missing) AS incomplete,
           h.content = sha256(string_agg(h.hash, '' ORDER BY h.place)) AS fits
      FROM hashed AS h GROUP BY h.sequence, h.content
)
SELECT j.sequence, 'missing' AS fault, m.page_id FROM judged AS j CROSS JOIN LATERAL unnest(j.missing) AS m(page_id)
UNION ALL
SELECT j.sequence, 'changed', c.page_id FROM judged AS j CROSS JOIN LATERAL unnest(j.changed) AS c(page_id)
UNION ALL
SELECT j.sequence, 'content', NULL FROM judged AS j WHERE NOT j.fits AND NOT j.incomplete AND j.changed IS NULL
 ORDER BY 1, 3;

-- name: find_unsealed_pages
-- Why: pages from $1 to below $2 that none of the seals $3 to $4 covers: what was inserted, or what a killed worker left.
SELECT p.page_id
  FROM registry.journal_page AS p
  LEFT JOIN (SELECT unnest(s.page_ids) AS page_id FROM registry.seal AS s WHERE s.sequence BETWEEN $3 AND $4) AS sealed ON sealed.page_id = p.page_id
 WHERE p.page_id >= $1 AND p.page_id < $2 AND sealed.page_id IS NULL
 ORDER BY p.page_id LIMIT 1000;

-- name: read_days
-- Why: which days there are, and the time by the database's clock up to which pages have been sealed for sure.
SELECT coalesce(array_agg(p.day ORDER BY p.day), '{}') AS days, now() - interval '1 minute' AS sealed_until
  FROM registry.day_partition AS p WHERE p.family = 'journal_page';

-- name: read_heads
SELECT h.chain, h.sequence, h.at, h.sha256
  FROM ((SELECT 'journal' AS chain, s.sequence, s.sealed_at AS at, s.sha256 FROM registry.seal AS s ORDER BY s.sequence DESC LIMIT 1)
        UNION ALL
        (SELECT 'breakglass', e.sequence, e.at, e.sha256 FROM registry.breakglass_event AS e ORDER BY e.sequence DESC LIMIT 1)) AS h;

-- name: read_log
-- Why: the break-glass log in its order, each row with the hash that it should have.
SELECT e.sequence, e.previous, e.sha256,
       sha256(e.previous || int8send(e.sequence) || int8send(e.request) || timestamptz_send(e.at) || int8send(coalesce(e.msisdn, 0)) || e.digests
              || array_send(e.digest_keys) || int4send(length(e.person)) || convert_to(e.step::text || e.person || e.reason, 'UTF8')) AS expected
  FROM registry.breakglass_event AS e ORDER BY e.sequence;
