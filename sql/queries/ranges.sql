-- The operator's numbering capacity. The parameter keeps_hand ($1 or $3) is true for a register, which replaces what a register brought and
-- keeps ranges made by hand, and false for a list of the operator's own, which replaces everything.

-- name: lock_ranges
-- Why: what is counted and compared does not change until the commit. Answers go on, because they only read.
LOCK TABLE registry.numbering_range IN SHARE ROW EXCLUSIVE MODE;

-- name: count_absent
-- Why: counts the live contracts that would turn absent, from the index alone. It looks only at numbers that are in the capacity now and would
-- not be afterwards; while there are no ranges, every number is in the capacity. How many contracts are live is summed from daily figures.
WITH capacity AS (
    SELECT coalesce(range_agg(int8range(r.first_msisdn, r.last_msisdn, '[]')), '{[10000,1000000000000000)}') AS present,
           coalesce(range_agg(int8range(r.first_msisdn, r.last_msisdn, '[]')) FILTER (WHERE $3 AND r.source = 'hand'), '{}') AS kept,
           count(*) FILTER (WHERE $3 AND r.source = 'hand') AS kept_ranges
      FROM registry.numbering_range AS r
), lost AS (
    SELECT sum(there.contracts)::bigint AS contracts
      FROM capacity
     CROSS JOIN (SELECT range_agg(int8range(f.first_msisdn, f.last_msisdn, '[]')) AS ranges
                   FROM unnest($1::bigint[], $2::bigint[]) AS f(first_msisdn, last_msisdn)) AS file
     CROSS JOIN unnest(capacity.present - capacity.kept - file.ranges) AS gone(numbers)
     CROSS JOIN LATERAL (SELECT count(*) AS contracts FROM registry.contract AS c
                          WHERE c.ended_at IS NULL AND c.msisdn >= lower(gone.numbers) AND c.msisdn < upper(gone.numbers)) AS there
), alive AS (
    SELECT sum(d.activated - d.terminated - d.ported_out - d.holder_changed)::bigint AS contracts FROM report.contract_daily AS d
)
SELECT greatest(alive.contracts, lost.contracts, 0) AS live, coalesce(lost.contracts, 0) AS absent, capacity.kept_ranges AS kept
  FROM capacity CROSS JOIN lost CROSS JOIN alive;

-- name: find_overlapping
-- Why: a line of the register ($3) that overlaps a range made by hand is refused: we cannot know which of the two is right.
SELECT f.line, 'overlaps a range made by hand: delete that one by SQL if the register is right' AS reason
  FROM unnest($1::bigint[], $2::bigint[], $3::bigint[]) AS f(first_msisdn, last_msisdn, line)
 WHERE EXISTS (SELECT FROM registry.numbering_range AS r
                WHERE r.source = 'hand' AND int8range(r.first_msisdn, r.last_msisdn, '[]') && int8range(f.first_msisdn, f.last_msisdn, '[]'))
 ORDER BY f.line
 LIMIT $4;

-- name: delete_ranges
DELETE FROM registry.numbering_range AS r WHERE r.source = 'register' OR NOT $1::boolean;

-- name: insert_ranges
INSERT INTO registry.numbering_range (first_msisdn, last_msisdn, region, note, source)
SELECT r.first_msisdn, r.last_msisdn, r.region, r.note, $5
  FROM unnest($1::bigint[], $2::bigint[], $3::text[], $4::text[]) AS r(first_msisdn, last_msisdn, region, note)
 ORDER BY r.first_msisdn;
