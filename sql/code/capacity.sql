-- The numbering capacity advises: it says which live contracts lie outside the operator's own numbers. Those were ported in, or somebody's table is wrong.

CREATE OR REPLACE FUNCTION registry.contracts_outside_capacity() RETURNS TABLE (block bigint, contracts bigint)
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = registry, pg_temp
-- The planner cannot know how many numbers lie between two ranges, and would read the whole table.
SET enable_seqscan = off SET enable_bitmapscan = off SET jit = off
AS $$
    SELECT there.block, there.contracts
      FROM (SELECT range_agg(int8range(r.first_msisdn, r.last_msisdn, '[]')) AS capacity FROM registry.numbering_range AS r HAVING count(*) > 0) AS c
     CROSS JOIN unnest('{[10000,1000000000000000)}'::int8multirange - c.capacity) AS gap(numbers)
     CROSS JOIN LATERAL (SELECT l.msisdn / 10000 AS block, count(*) AS contracts FROM registry.contract AS l
                          WHERE l.ended_at IS NULL AND l.msisdn >= lower(gap.numbers) AND l.msisdn < upper(gap.numbers) GROUP BY 1) AS there
$$;
COMMENT ON FUNCTION registry.contracts_outside_capacity IS 'The live contracts outside the numbering capacity, by gap and block of 10,000 numbers. It walks the gaps between the ranges in the index, so it takes time by their number and by what lies in them. While there are no ranges, nothing lies outside.';
