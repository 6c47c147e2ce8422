-- Bindings as their messenger sees them. Recording is part of presence.sql: a binding is made with the answer it rests on.

-- name: find_binding
-- Why: a code's live binding, else the one that ended last; each branch is one probe of its own index.
SELECT b.identification_code, b.bound_at, b.ended_at, b.end_reason
  FROM ((SELECT * FROM registry.binding AS live
          WHERE live.messenger_id = $1 AND live.identification_code = $2 AND live.ended_at IS NULL)
        UNION ALL
        (SELECT * FROM registry.binding AS past
          WHERE past.messenger_id = $1 AND past.identification_code = $2 AND past.ended_at IS NOT NULL
          ORDER BY past.ended_at DESC LIMIT 1)) AS b
 ORDER BY b.ended_at DESC NULLS FIRST
 LIMIT 1;

-- name: remove_binding
-- Why: the messenger's own end of a binding, so no notification follows. Only a live binding is touched.
UPDATE registry.binding AS b
   SET ended_at = clock_timestamp(), end_reason = 'removed'
 WHERE b.messenger_id = $1 AND b.identification_code = $2 AND b.ended_at IS NULL
RETURNING b.identification_code, b.bound_at, b.ended_at, b.end_reason;
