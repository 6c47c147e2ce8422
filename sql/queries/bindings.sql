-- A messenger's bindings, by its code. They are recorded in presence.sql, together with the answer that they rest on.

-- name: find_binding
-- Why: the live binding of a code, else the one that ended last. Each branch is one probe of an index of its own.
SELECT b.identification_code, b.generation, b.bound_at, b.ended_at, b.end_reason
  FROM ((SELECT * FROM registry.binding AS live
          WHERE live.messenger_id = $1 AND live.identification_code = $2 AND live.ended_at IS NULL)
        UNION ALL
        (SELECT * FROM registry.binding AS past
          WHERE past.messenger_id = $1 AND past.identification_code = $2 AND past.ended_at IS NOT NULL
          ORDER BY past.ended_at DESC LIMIT 1)) AS b
 ORDER BY b.ended_at DESC NULLS FIRST
 LIMIT 1;

-- name: remove_binding
-- Why: the messenger itself ends the binding, so no notification follows. Only a live binding is changed.
UPDATE registry.binding AS b
   SET ended_at = clock_timestamp(), end_reason = 'removed'
 WHERE b.messenger_id = $1 AND b.identification_code = $2 AND b.ended_at IS NULL
RETURNING b.identification_code, b.generation, b.bound_at, b.ended_at, b.end_reason;

-- name: list_bindings
-- Why: a messenger compares its own list with ours, page by page, in the order of the index of live codes: a page costs the same however
-- many bindings there are, and one that is live all the time is on exactly one page.
SELECT b.identification_code, b.generation, b.bound_at, b.ended_at, b.end_reason
  FROM registry.binding AS b
 WHERE b.messenger_id = $1 AND b.ended_at IS NULL AND b.identification_code > $2
 ORDER BY b.identification_code
 LIMIT $3;

-- name: remove_bindings
-- Why: as remove_binding, for many at once. What another transaction is just changing is left out, so that a removal never waits for a wave of
-- ends while that waits for it.
WITH live AS MATERIALIZED (
    SELECT b.msisdn, b.generation, b.messenger_id, b.bound_at
      FROM unnest($2::text[]) AS asked(code)
      JOIN registry.binding AS b ON b.messenger_id = $1 AND b.identification_code = asked.code AND b.ended_at IS NULL
       FOR UPDATE OF b SKIP LOCKED
)
UPDATE registry.binding AS b
   SET ended_at = clock_timestamp(), end_reason = 'removed'
  FROM live AS l
 WHERE b.msisdn = l.msisdn AND b.generation = l.generation AND b.messenger_id = l.messenger_id AND b.bound_at = l.bound_at AND b.ended_at IS NULL
RETURNING b.identification_code, b.generation, b.bound_at, b.ended_at, b.end_reason;

-- name: find_bindings
-- Why: as find_binding, for many codes.
SELECT b.identification_code, b.generation, b.bound_at, b.ended_at, b.end_reason
  FROM unnest($2::text[]) AS asked(code)
 CROSS JOIN LATERAL (
           SELECT f.identification_code, f.generation, f.bound_at, f.ended_at, f.end_reason
             FROM ((SELECT live.identification_code, live.generation, live.bound_at, live.ended_at, live.end_reason
                      FROM registry.binding AS live
                     WHERE live.messenger_id = $1 AND live.identification_code = asked.code AND live.ended_at IS NULL)
                   UNION ALL
                   (SELECT past.identification_code, past.generation, past.bound_at, past.ended_at, past.end_reason
                      FROM registry.binding AS past
                     WHERE past.messenger_id = $1 AND past.identification_code = asked.code AND past.ended_at IS NOT NULL
                     ORDER BY past.ended_at DESC LIMIT 1)) AS f
            ORDER BY f.ended_at DESC NULLS FIRST
            LIMIT 1) AS b;
