-- The hot path: lookup, journal and bindings of a whole group of queries, in one statement and one commit.
--
-- A group is up to some hundreds of queries of any messengers, or a thousand of a batch. Three parameters hold a messenger each, whose
-- queries follow one another in the group: who, how many, and how long the first has waited. The digests are in the order of the group.
--
-- A live contract answers by its own state and the policy alone. While the registry is not complete there is no rule: nothing is answered,
-- journaled or bound, and no row comes back.

-- name: answer_presence
-- Why: queries without codes lock nothing and need no bindings. $1 is the numbers in the order of the group; one scan of the index looks all of
-- them up. A number has one live contract at most, and ended ones are never present, so one that is present decides. The answers come back as
-- one text of 0s and 1s in the order of the group, so that a thousand answers are one value, not a thousand rows.
WITH rule AS MATERIALIZED (
    SELECT p.organisation_rule, p.suspended_is_present
      FROM registry.policy_in_force(now()) AS p
     WHERE EXISTS (SELECT FROM registry.completeness())
), found AS MATERIALIZED (
    SELECT c.msisdn, registry.is_present(c.status, c.unverified, rule.organisation_rule, rule.suspended_is_present) AS present,
           c.unverified AND rule.organisation_rule <> 'subscriber'
           AND registry.is_present(c.status, false, rule.organisation_rule, rule.suspended_is_present) AS turned
      FROM rule CROSS JOIN registry.contract AS c
     WHERE c.msisdn = ANY ($1::bigint[])
), answered AS MATERIALIZED (
    -- The rows of unnest come in the order of the array, and so do the bits.
    SELECT string_agg(CASE WHEN q.msisdn IN (SELECT f.msisdn FROM found AS f WHERE f.present) THEN '1' ELSE '0' END, '') AS bits,
           nullif(count(*) FILTER (WHERE q.msisdn IN (SELECT f.msisdn FROM found AS f WHERE f.turned)), 0)::integer AS turned
      FROM rule CROSS JOIN unnest($1::bigint[]) AS q(msisdn)
), journaled AS (
    INSERT INTO registry.journal_page (queries, digest_key, messenger_ids, query_counts, waited_ms, digests, present, turned_by_rule)
    SELECT length(a.bits), $6::smallint, $2::integer[], $3::integer[], $4::integer[], $5::bytea, a.bits::varbit, a.turned FROM answered AS a WHERE a.bits IS NOT NULL
    RETURNING page_id, answered_at
)
SELECT j.page_id, j.answered_at, a.bits FROM journaled AS j CROSS JOIN answered AS a;

-- name: answer_and_bind
-- Why: the same with codes ($8, by query, NULL where none) and whose they are ($9, by query). $1 and $2 hold a query each, sorted by number;
-- $2 is its position in the group, from 0. A contract is share-locked before a binding is
-- written on it, but for those that another transaction is ending right now: those queries come back 'busy' and are asked again, so that a
-- group never waits for a mass termination and never deadlocks with one. A repeated code locks nothing. No two queries of a statement may
-- name the same messenger and number, or messenger and code.
WITH rule AS MATERIALIZED (
    SELECT p.organisation_rule, p.suspended_is_present
      FROM registry.policy_in_force(now()) AS p
     WHERE EXISTS (SELECT FROM registry.completeness())
), answered AS MATERIALIZED (
    SELECT q.position, q.msisdn, q.code, q.messenger_id, c.generation,
           coalesce(registry.is_present(c.status, c.unverified, rule.organisation_rule, rule.suspended_is_present), false) AS present,
           c.unverified AND rule.organisation_rule <> 'subscriber'
           AND registry.is_present(c.status, false, rule.organisation_rule, rule.suspended_is_present) AS turned
      FROM unnest($1::bigint[], $2::integer[], $8::text[], $9::integer[]) AS q(msisdn, position, code, messenger_id)
     CROSS JOIN rule
      LEFT JOIN LATERAL (SELECT l.generation, l.status, l.unverified FROM registry.contract AS l
                          WHERE l.msisdn = q.msisdn ORDER BY l.generation DESC LIMIT 1) AS c ON true
), judged AS MATERIALIZED (
    -- Each probe is a LATERAL of its own: locked in the order of the numbers, and never more than one descent of an index a query.
    SELECT a.position, a.msisdn, a.generation, a.messenger_id, a.code, a.present, a.turned,
           CASE WHEN NOT a.present OR a.code IS NULL THEN NULL
                WHEN same_code.msisdn = a.msisdn THEN 'unchanged'
                WHEN same_code.msisdn IS NOT NULL THEN 'code_in_use'
                WHEN contract.held IS NULL THEN 'busy'
                WHEN same_number.held THEN 'replaced'
                ELSE 'recorded' END AS outcome,
           CASE WHEN same_code.msisdn = a.msisdn THEN same_code.bound_at ELSE clock_timestamp() END AS bound_at
      FROM answered AS a
      LEFT JOIN LATERAL (
           SELECT b.msisdn, b.bound_at FROM registry.binding AS b
            WHERE a.present AND b.messenger_id = a.messenger_id AND b.identification_code = a.code AND b.ended_at IS NULL
            LIMIT 1) AS same_code ON true
      LEFT JOIN LATERAL (
           SELECT true AS held FROM registry.contract AS c
            WHERE a.present AND a.code IS NOT NULL AND same_code.msisdn IS NULL AND c.msisdn = a.msisdn AND c.ended_at IS NULL
              FOR SHARE SKIP LOCKED) AS contract ON true
      LEFT JOIN LATERAL (
           SELECT true AS held FROM registry.binding AS b
            WHERE contract.held AND b.msisdn = a.msisdn AND b.messenger_id = a.messenger_id AND b.ended_at IS NULL
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
), gathered AS MATERIALIZED (
    SELECT string_agg(CASE WHEN j.present THEN '1' ELSE '0' END, '' ORDER BY j.position) AS bits,
           CASE WHEN bool_or(j.outcome = 'busy') THEN string_agg(CASE j.outcome WHEN 'busy' THEN '0' ELSE '1' END, '' ORDER BY j.position) END AS told,
           nullif(count(*) FILTER (WHERE j.turned), 0)::integer AS turned,
           CASE WHEN bool_or(j.outcome IN ('recorded', 'unchanged', 'replaced'))
                THEN string_agg(CASE WHEN j.outcome IN ('recorded', 'unchanged', 'replaced') THEN '1' ELSE '0' END, '' ORDER BY j.position) END AS bound,
           array_agg(j.outcome ORDER BY j.position) AS outcomes,
           array_agg(CASE WHEN j.outcome IN ('recorded', 'unchanged', 'replaced') THEN j.bound_at END ORDER BY j.position) AS bound_at,
           array_agg(CASE WHEN j.outcome IN ('recorded', 'unchanged', 'replaced') THEN j.generation END ORDER BY j.position) AS generations
      FROM judged AS j
), journaled AS (
    INSERT INTO registry.journal_page (queries, digest_key, messenger_ids, query_counts, waited_ms, digests, present, told, bound, turned_by_rule)
    SELECT length(g.bits), $7::smallint, $3::integer[], $4::integer[], $5::integer[], $6::bytea, g.bits::varbit, g.told::varbit, g.bound::varbit,
           g.turned
      FROM gathered AS g
     WHERE g.bits IS NOT NULL
    RETURNING page_id, answered_at
)
SELECT j.page_id, j.answered_at, g.bits, g.outcomes, g.bound_at, g.generations FROM journaled AS j CROSS JOIN gathered AS g;

-- name: confirm_complete
-- Why: before the registry is complete the answer role is not ready. After the server was started again, the row learns its new start.
SELECT registry.confirm_complete() AS complete;

-- name: try_journal
-- Why: after a group that failed the role is ready again once the journal takes a page. The caller undoes it.
INSERT INTO registry.journal_page (queries, digest_key, messenger_ids, query_counts, waited_ms, digests, present)
VALUES (1, $1::smallint, '{0}', '{1}', '{0}', decode(repeat('00', 16), 'hex'), B'0');
