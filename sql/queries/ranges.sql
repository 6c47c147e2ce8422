-- The operator's numbering capacity, which advises and decides no answer. A register ($1 true, in delete_ranges) replaces what a register brought and
-- keeps ranges made by hand; a list of the operator's own replaces everything.

-- name: lock_ranges
-- Why: two imports at once would leave the ranges of both. Readers go on.
LOCK TABLE registry.numbering_range IN SHARE ROW EXCLUSIVE MODE;

-- name: count_dropped
-- Why: each import replaces the one before, so whoever imports one file after another would lose the first. $1, $2: the new ranges; $3 is true where
-- ranges made by hand stay.
SELECT coalesce(sum(upper(gone.numbers) - lower(gone.numbers)), 0)::bigint AS dropped
  FROM (SELECT range_agg(int8range(r.first_msisdn, r.last_msisdn, '[]')) AS ranges FROM registry.numbering_range AS r
         WHERE NOT $3 OR r.source = 'register') AS before
 CROSS JOIN (SELECT range_agg(int8range(f.first_msisdn, f.last_msisdn, '[]')) AS ranges FROM unnest($1::bigint[], $2::bigint[]) AS f(first_msisdn, last_msisdn)) AS file
 CROSS JOIN unnest(before.ranges - file.ranges) AS gone(numbers);

-- name: count_capacity
-- Why: what a person wants to know of a capacity. $1 is true where ranges made by hand were kept.
SELECT registry.live_contracts() AS live, (SELECT coalesce(sum(o.contracts), 0)::bigint FROM registry.contracts_outside_capacity() AS o) AS outside,
       (SELECT count(*) FROM registry.numbering_range AS r WHERE $1 AND r.source = 'hand') AS kept;

-- name: count_outside
SELECT coalesce(sum(o.contracts), 0)::bigint AS contracts FROM registry.contracts_outside_capacity() AS o;

-- name: find_overlapping
-- Why: a line of the register (at $3) that overlaps a range made by hand is refused: we cannot know which of the two is right.
SELECT f.place, 'overlaps a range made by hand: delete that one by SQL if the register is right' AS reason
  FROM unnest($1::bigint[], $2::bigint[], $3::text[]) WITH ORDINALITY AS f(first_msisdn, last_msisdn, place, position)
 WHERE EXISTS (SELECT FROM registry.numbering_range AS r
                WHERE r.source = 'hand' AND int8range(r.first_msisdn, r.last_msisdn, '[]') && int8range(f.first_msisdn, f.last_msisdn, '[]'))
 ORDER BY f.position
 LIMIT $4;

-- name: delete_ranges
DELETE FROM registry.numbering_range AS r WHERE r.source = 'register' OR NOT $1::boolean;

-- name: insert_ranges
INSERT INTO registry.numbering_range (first_msisdn, last_msisdn, region, note, source)
SELECT r.first_msisdn, r.last_msisdn, r.region, r.note, $5
  FROM unnest($1::bigint[], $2::bigint[], $3::text[], $4::text[]) AS r(first_msisdn, last_msisdn, region, note)
 ORDER BY r.first_msisdn;
