-- The hot path: lookup, journal and bindings of a whole group of queries, in one statement and one commit.
--
-- A group is up to some hundreds of queries of any messengers, or a thousand of a batch. Parameters $1 and $2 hold a query each, sorted by
-- number, because neighbours share index pages; $3 to $6 hold a page each, the queries of one messenger. A query names its place: the number
-- of its page (from 0) above 16 bits of its position there.

-- name: answer_presence
-- Why: queries without codes lock nothing and need no bindings; one statement journals them and returns each page's answers as a text of
-- 0s and 1s, so that a thousand answers are one value, not a thousand rows.
WITH rule AS MATERIALIZED (
    SELECT p.organisation_rule, p.suspended_is_present, NOT EXISTS (SELECT FROM registry.numbering_range) AS unchecked
      FROM registry.policy_in_force(now()) AS p
), answered AS (
    SELECT q.place >> 16 AS page, q.place & 65535 AS position,
           coalesce(registry.is_present(c.status, c.unverified, rule.organisation_rule, rule.suspended_is_present)
                    AND (rule.unchecked OR q.msisdn <= (SELECT r.last_msisdn FROM registry.numbering_range AS r
                                                         WHERE r.first_msisdn <= q.msisdn ORDER BY r.first_msisdn DESC LIMIT 1)), false) AS present
      FROM unnest($1::bigint[], $2::integer[]) AS q(msisdn, place)
     CROSS JOIN rule
      LEFT JOIN LATERAL (SELECT l.generation, l.status, l.unverified FROM registry.contract AS l
                          WHERE l.msisdn = q.msisdn ORDER BY l.generation DESC LIMIT 1) AS c ON true
), paged AS MATERIALIZED (
    SELECT a.page, count(*)::integer AS queries, (count(*) FILTER (WHERE a.present))::integer AS present_count,
           string_agg(CASE WHEN a.present THEN '1' ELSE '0' END, '' ORDER BY a.position) AS bits
      FROM answered AS a GROUP BY a.page
), moment AS MATERIALIZED (
    SELECT clock_timestamp() AS at FROM (SELECT count(*) FROM paged) AS first
), journaled AS (
    INSERT INTO registry.journal_page (page_id, received_at, answered_at, messenger_id, queries, present_count, digest_key, digests, present)
    SELECT p.page_id, p.received_at, moment.at, p.messenger_id, d.queries, d.present_count, $7::smallint, p.digests, d.bits::varbit
      FROM unnest($3::uuid[], $4::timestamptz[], $5::integer[], $6::bytea[]) WITH ORDINALITY AS p(page_id, received_at, messenger_id, digests, number)
      JOIN paged AS d ON d.page = p.number - 1
     CROSS JOIN moment
)
SELECT d.page, d.bits, moment.at AS answered_at FROM paged AS d CROSS JOIN moment ORDER BY d.page;

-- name: answer_and_bind
-- Why: the same with codes ($8, by query, NULL where none). Contracts are share-locked before anything is written, skipping those that another
-- transaction is ending right now: those queries come back 'busy' and are asked again, so that a group never waits for a mass termination
-- and never deadlocks with one. No two queries of a statement may name the same messenger and number, or messenger and code.
WITH rule AS MATERIALIZED (
    SELECT p.organisation_rule, p.suspended_is_present, NOT EXISTS (SELECT FROM registry.numbering_range) AS unchecked
      FROM registry.policy_in_force(now()) AS p
), page AS MATERIALIZED (
    SELECT p.page_id, p.received_at, p.messenger_id, p.digests, (p.number - 1)::integer AS page
      FROM unnest($3::uuid[], $4::timestamptz[], $5::integer[], $6::bytea[]) WITH ORDINALITY AS p(page_id, received_at, messenger_id, digests, number)
), answered AS MATERIALIZED (
    SELECT page.page, q.place & 65535 AS position, q.msisdn, q.code, page.messenger_id, c.generation,
           coalesce(registry.is_present(c.status, c.unverified, rule.organisation_rule, rule.suspended_is_present)
                    AND (rule.unchecked OR q.msisdn <= (SELECT r.last_msisdn FROM registry.numbering_range AS r
                                                         WHERE r.first_msisdn <= q.msisdn ORDER BY r.first_msisdn DESC LIMIT 1)), false) AS present
      FROM unnest($1::bigint[], $2::integer[], $8::text[]) AS q(msisdn, place, code)
     CROSS JOIN rule
      JOIN page ON page.page = q.place >> 16
      LEFT JOIN LATERAL (SELECT l.generation, l.status, l.unverified FROM registry.contract AS l
                          WHERE l.msisdn = q.msisdn ORDER BY l.generation DESC LIMIT 1) AS c ON true
), judged AS MATERIALIZED (
    -- Each probe is a LATERAL of its own: locked in the order of the numbers, and never more than one descent of an index a query.
    SELECT a.page, a.position, a.msisdn, a.generation, a.messenger_id, a.code, a.present,
           CASE WHEN NOT a.present OR a.code IS NULL THEN NULL
                WHEN contract.held IS NULL THEN 'busy'
                WHEN same_code.msisdn = a.msisdn THEN 'unchanged'
                WHEN same_code.msisdn IS NOT NULL THEN 'code_in_use'
                WHEN same_number.held THEN 'replaced'
                ELSE 'recorded' END AS outcome,
           CASE WHEN same_code.msisdn = a.msisdn THEN same_code.bound_at ELSE clock_timestamp() END AS bound_at
      FROM answered AS a
      LEFT JOIN LATERAL (
           SELECT true AS held FROM registry.contract AS c
            WHERE a.present AND a.code IS NOT NULL AND c.msisdn = a.msisdn AND c.ended_at IS NULL
              FOR SHARE SKIP LOCKED) AS contract ON true
      LEFT JOIN LATERAL (
           SELECT b.msisdn, b.bound_at FROM registry.binding AS b
            WHERE contract.held AND b.messenger_id = a.messenger_id AND b.identification_code = a.code AND b.ended_at IS NULL
            LIMIT 1) AS same_code ON true
      LEFT JOIN LATERAL (
           SELECT true AS held FROM registry.binding AS b
            WHERE contract.held AND same_code.msisdn IS NULL AND b.msisdn = a.msisdn AND b.messenger_id = a.messenger_id AND b.ended_at IS NULL
              FOR NO KEY UPDATE SKIP LOCKED) AS same_number ON true
), replaced AS (
    UPDATE registry.binding AS b
       SET ended_at = j.bound_at, end_reason = 'replaced'
      FROM judged AS j
     WHERE j.outcome = 'replaced' AND b.msisdn = j.msisdn AND b.messenger_id = j.messenger_id AND b.ended_at IS NULL
    RETURNING 1
), recorded AS (
    -- Counting `replaced` makes it run first, so that the old bindings have ended before the new ones meet the unique index. One that
    -- another statement wrote meanwhile meets it too: the group is then undone and asked again.
    INSERT INTO registry.binding (msisdn, bound_at, messenger_id, generation, identification_code)
    SELECT j.msisdn, j.bound_at, j.messenger_id, j.generation, j.code
      FROM (SELECT count(*) FROM replaced) AS first CROSS JOIN judged AS j
     WHERE j.outcome IN ('recorded', 'replaced')
), paged AS MATERIALIZED (
    SELECT j.page, count(*)::integer AS queries, (count(*) FILTER (WHERE j.present))::integer AS present_count,
           string_agg(CASE WHEN j.present THEN '1' ELSE '0' END, '' ORDER BY j.position) AS bits,
           array_agg(j.outcome ORDER BY j.position) AS outcomes,
           array_agg(CASE WHEN j.outcome IN ('recorded', 'unchanged', 'replaced') THEN j.bound_at END ORDER BY j.position) AS bound_at
      FROM judged AS j
     GROUP BY j.page
), moment AS MATERIALIZED (
    SELECT clock_timestamp() AS at FROM (SELECT count(*) FROM paged) AS first
), journaled AS (
    INSERT INTO registry.journal_page (page_id, received_at, answered_at, messenger_id, queries, present_count, digest_key, digests, present)
    SELECT p.page_id, p.received_at, moment.at, p.messenger_id, d.queries, d.present_count, $7::smallint, p.digests, d.bits::varbit
      FROM page AS p JOIN paged AS d ON d.page = p.page CROSS JOIN moment
)
SELECT d.page, d.bits, d.outcomes, d.bound_at, moment.at AS answered_at FROM paged AS d CROSS JOIN moment ORDER BY d.page;
