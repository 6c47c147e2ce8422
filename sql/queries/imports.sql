-- Imports of files of contracts. Lines are checked on their way, staged by COPY, then inserted by one statement.

-- name: prepare_import
-- Why: whole tables are sorted and joined once, within bounded memory.
SELECT set_config('work_mem', '256MB', true) AS work_mem, set_config('temp_buffers', '64MB', true) AS temp_buffers,
       set_config('jit', 'off', true) AS jit;

-- name: create_staging
SELECT true AS made FROM (SELECT registry.make_import_staging()) AS staging;

-- name: is_empty
SELECT NOT EXISTS (SELECT FROM registry.contract) AS empty;

-- name: load_first
-- Why: an empty registry is loaded with its indexes built at the end. $1: when a snapshot was taken; NULL: the file is a history.
SELECT registry.load_first($1) AS inserted;

-- name: insert_staged
-- Why: rows come sorted, so that the indexes grow at their end. A contract that is there already stays as it is.
INSERT INTO registry.contract (msisdn, generation, status, holder, end_user, started_at, ended_at, end_reason)
SELECT s.msisdn, s.generation, s.status, s.holder, s.end_user, s.started_at, s.ended_at, s.end_reason
  FROM import_contract AS s
 ORDER BY s.msisdn, s.generation
    ON CONFLICT (msisdn, generation) DO NOTHING;

-- name: declare_complete
-- Why: whoever imports a history says whether it holds every live contract; the file itself cannot.
SELECT true AS declared FROM (SELECT registry.declare_complete('history', $1)) AS said;

-- name: find_repeated_lines
-- Why: we cannot know which of two lines on one contract is right. The row number is the line's place among the good lines.
SELECT again.line, CASE WHEN again.generation IS NULL THEN 'the same msisdn stands on an earlier line'
                        ELSE 'the same msisdn and generation stand on an earlier line' END AS reason
  FROM (SELECT l.line, l.generation, row_number() OVER (PARTITION BY l.msisdn, l.generation ORDER BY l.line) AS number
          FROM (SELECT row_number() OVER () AS line, s.msisdn, s.generation FROM import_contract AS s) AS l) AS again
 WHERE again.number > 1
 ORDER BY again.line
 LIMIT $1;

-- name: find_second_live
-- Why: the unique index has refused a second live contract of a number; this finds the lines.
SELECT l.line,
       CASE WHEN c.msisdn IS NULL THEN 'the number has another live contract in this file'
            ELSE 'the number has a live contract of another generation in the registry: end that one first, by a contract event' END AS reason
  FROM (SELECT i.line, i.msisdn, i.generation, count(*) OVER (PARTITION BY i.msisdn) AS live
          FROM (SELECT row_number() OVER () AS line, s.msisdn, s.generation, s.ended_at FROM import_contract AS s) AS i
         WHERE i.ended_at IS NULL) AS l
  LEFT JOIN registry.contract AS c ON c.msisdn = l.msisdn AND c.ended_at IS NULL AND c.generation <> l.generation
 WHERE l.live > 1 OR c.msisdn IS NOT NULL
 ORDER BY l.line
 LIMIT $1;

-- name: find_buried
-- Why: the trigger has refused contracts because a live one would not be its number's last; this finds the lines.
SELECT DISTINCT l.line,
       CASE WHEN l.ended_at IS NULL THEN 'the number has an ended contract of a higher generation: a live contract is the last'
            ELSE 'the number has a live contract of a lower generation: what ended before it began has a lower one than that' END AS reason
  FROM (SELECT row_number() OVER () AS line, s.msisdn, s.generation, s.ended_at FROM import_contract AS s) AS l
  JOIN (SELECT c.msisdn, c.generation, c.ended_at FROM registry.contract AS c
        UNION ALL SELECT s.msisdn, s.generation, s.ended_at FROM import_contract AS s) AS c ON c.msisdn = l.msisdn
 WHERE CASE WHEN l.ended_at IS NULL THEN c.ended_at IS NOT NULL AND c.generation > l.generation ELSE c.ended_at IS NULL AND c.generation < l.generation END
 ORDER BY l.line
 LIMIT $1;

-- name: find_overtaken
-- Why: an event may have begun a number's next contract while the lines went in, and neither saw the other. Events wait by now.
SELECT l.line, 'an event has begun the number''s next contract meanwhile: import the file again' AS reason
  FROM (SELECT row_number() OVER () AS line, s.msisdn, s.generation, s.ended_at FROM import_contract AS s) AS l
  JOIN registry.contract AS c ON c.msisdn = l.msisdn AND c.ended_at IS NULL AND c.generation < l.generation
 WHERE l.ended_at IS NOT NULL
 ORDER BY l.line
 LIMIT $1;
