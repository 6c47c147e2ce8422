-- Files of contracts: staged by COPY as text, checked as a whole, then inserted as one statement.

-- name: create_staging
-- Why: text columns take any line, so that every bad one can be named by its number, not only the first. Compared byte by byte, which is
-- several times cheaper than by the rules of a language.
CREATE TEMPORARY TABLE import_line (
    line bigint GENERATED ALWAYS AS IDENTITY,
    msisdn text COLLATE "C", generation text COLLATE "C", status text COLLATE "C", holder text COLLATE "C", end_user text COLLATE "C",
    started_at text COLLATE "C", ended_at text COLLATE "C", end_reason text COLLATE "C"
) ON COMMIT DROP;

-- name: find_bad_lines
-- Why: what is wanted of a line, in the order an engineer would mend it; nothing of the line itself is quoted. The pattern of a time lets
-- nothing through that its cast would refuse, 30 February and hours of an offset included: a cast's error names no line.
SELECT bad.line + 1 AS line, bad.reason
  FROM (SELECT l.line,
               CASE WHEN l.msisdn !~ '^[1-9][0-9]{4,14}$' OR l.msisdn IS NULL THEN 'msisdn: 5 to 15 digits without the plus, the first not 0'
                    WHEN l.generation !~ '^[1-9][0-9]{0,3}$' OR l.generation IS NULL THEN 'generation: 1 to 9999'
                    WHEN l.status NOT IN ('active', 'suspended', 'ended') OR l.status IS NULL THEN 'status: active, suspended or ended'
                    WHEN l.holder NOT IN ('individual', 'sole_trader', 'organisation') OR l.holder IS NULL THEN 'holder: individual, sole_trader or organisation'
                    WHEN l.end_user NOT IN ('not_required', 'registered', 'unregistered') OR l.end_user IS NULL THEN 'end_user: not_required, registered or unregistered'
                    WHEN (l.holder = 'individual') <> (l.end_user = 'not_required') THEN 'end_user: not_required for an individual, and for nobody else'
                    WHEN l.started_at !~ pattern.time OR l.started_at IS NULL THEN 'started_at: an RFC 3339 time such as 2026-01-02T03:04:05Z'
                    WHEN l.started_at::timestamptz > now() + interval '5 minutes' THEN 'started_at: lies in the future'
                    WHEN (l.status = 'ended') <> (l.ended_at IS NOT NULL) THEN 'ended_at: given where status is ended, and only there'
                    WHEN (l.status = 'ended') <> (l.end_reason IS NOT NULL) THEN 'end_reason: given where status is ended, and only there'
                    WHEN l.ended_at !~ pattern.time THEN 'ended_at: an RFC 3339 time such as 2026-01-02T03:04:05Z'
                    WHEN l.ended_at::timestamptz > now() + interval '5 minutes' THEN 'ended_at: lies in the future'
                    WHEN l.ended_at::timestamptz < l.started_at::timestamptz THEN 'ended_at: lies before started_at'
                    WHEN l.end_reason NOT IN ('terminated', 'ported_out', 'holder_changed') THEN 'end_reason: terminated, ported_out or holder_changed'
               END AS reason
          FROM import_line AS l
         CROSS JOIN (SELECT '^(?:(?:19|2[0-9])[0-9]{2}-(?:(?:0[13578]|1[02])-(?:0[1-9]|[12][0-9]|3[01])|(?:0[469]|11)-(?:0[1-9]|[12][0-9]|30)|02-(?:0[1-9]|1[0-9]|2[0-8]))'
                         || '|(?:(?:19|2[0-9])(?:0[48]|[2468][048]|[13579][26])|2[048]00)-02-29)'
                         || 'T(?:[01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9](?:\.[0-9]{1,6})?(?:Z|[+-](?:0[0-9]|1[0-5]):[0-5][0-9])$' AS time) AS pattern) AS bad
 WHERE bad.reason IS NOT NULL
 ORDER BY bad.line
 LIMIT $1;

-- name: skip_friendly_refusal
-- Why: the index refuses a second live contract on a number all the same; the friendlier words cost a look-up a row.
SELECT set_config('registry.bulk_load', 'on', true) AS bulk_load;

-- name: insert_staged
-- Why: sorted, so that the indexes grow at their end. A contract that is there already is left as it is.
INSERT INTO registry.contract (msisdn, generation, status, holder, end_user, started_at, ended_at, end_reason)
SELECT l.msisdn::bigint, l.generation::smallint, l.status::registry.contract_status, l.holder::registry.holder, l.end_user::registry.end_user,
       l.started_at::timestamptz, l.ended_at::timestamptz, l.end_reason::registry.end_reason
  FROM import_line AS l
 ORDER BY l.msisdn::bigint, l.generation::smallint
    ON CONFLICT (msisdn, generation) DO NOTHING;

-- name: find_repeated_lines
-- Why: which of two lines on one contract was meant is not ours to guess. Looked for only where fewer rows went in than there are lines.
SELECT again.line + 1 AS line, 'the same msisdn and generation stand on an earlier line' AS reason
  FROM (SELECT l.line, row_number() OVER (PARTITION BY l.msisdn, l.generation ORDER BY l.line) AS number FROM import_line AS l) AS again
 WHERE again.number > 1
 ORDER BY again.line
 LIMIT $1;

-- name: find_second_live
-- Why: the unique index says that a number would have two live contracts; this says on which lines. Looked for only then.
SELECT l.line + 1 AS line,
       CASE WHEN c.msisdn IS NULL THEN 'the number has another live contract in this file'
            ELSE 'the number has a live contract of another generation in the registry: end that one first, by a contract event' END AS reason
  FROM (SELECT i.line, i.msisdn::bigint AS msisdn, i.generation::smallint AS generation, count(*) OVER (PARTITION BY i.msisdn) AS live
          FROM import_line AS i WHERE i.status <> 'ended') AS l
  LEFT JOIN registry.contract AS c ON c.msisdn = l.msisdn AND c.ended_at IS NULL AND c.generation <> l.generation
 WHERE l.live > 1 OR c.msisdn IS NOT NULL
 ORDER BY l.line
 LIMIT $1;

-- name: insert_range
INSERT INTO registry.numbering_range (first_msisdn, last_msisdn, region, note)
SELECT r.first_msisdn, r.last_msisdn, r.region, r.note
  FROM unnest($1::bigint[], $2::bigint[], $3::text[], $4::text[]) AS r(first_msisdn, last_msisdn, region, note)
 ORDER BY r.first_msisdn;

-- name: delete_ranges
DELETE FROM registry.numbering_range;
