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
