-- What is owed: read by key, settled in batches.

-- name: read_due
-- Why: the lane's next rows in the order of the primary key, from a key on, so that no row is locked and none is read twice in a pass.
SELECT n.notification_id, n.deadline_at, n.msisdn, n.generation, n.identification_code, n.terminated_at, n.recorded_at, n.attempts, n.replayed,
       n.undoes
  FROM registry.notification AS n
 WHERE n.messenger_id = $1 AND (n.deadline_at, n.notification_id) > (registry.time_of($2), $2) AND n.not_before <= now()
 ORDER BY n.deadline_at, n.notification_id
 LIMIT $3;

-- name: find_canary
-- Why: a failing endpoint is probed with what was never tried, the newest first: what is refused, or breaks the endpoint, mostly has the
-- earlier deadlines, and may be many. Where all were tried, with the one that was tried least. Both looks end after 10,000, because millions may have
-- been tried.
WITH untried AS MATERIALIZED (
    SELECT d.* FROM (SELECT t.* FROM registry.notification AS t WHERE t.messenger_id = $1
                      ORDER BY t.deadline_at DESC, t.notification_id DESC LIMIT 10000) AS d
     WHERE d.not_before <= now() AND d.attempts = 0
     ORDER BY d.deadline_at DESC, d.notification_id DESC LIMIT 1
), tried AS (
    SELECT d.* FROM (SELECT t.* FROM registry.notification AS t WHERE t.messenger_id = $1 AND t.not_before <= now()
                      ORDER BY t.deadline_at, t.notification_id LIMIT 10000) AS d
     WHERE NOT EXISTS (SELECT FROM untried) ORDER BY d.attempts, d.deadline_at LIMIT 1
)
SELECT n.notification_id, n.deadline_at, n.msisdn, n.generation, n.identification_code, n.terminated_at, n.recorded_at, n.attempts, n.replayed,
       n.undoes
  FROM (TABLE untried UNION ALL TABLE tried) AS n;

-- name: read_owed
-- Why: the pull fallback: the same order, whatever their next attempt.
SELECT n.notification_id, n.deadline_at, n.msisdn, n.generation, n.identification_code, n.terminated_at, n.recorded_at, n.attempts, n.replayed,
       n.undoes
  FROM registry.notification AS n
 WHERE n.messenger_id = $1 AND (n.deadline_at, n.notification_id) > (registry.time_of($2), $2)
 ORDER BY n.deadline_at, n.notification_id
 LIMIT $3;

-- name: settle_delivered
-- Why: a receipt is a fact, so it is recorded even by a process that has lost the lane.
SELECT registry.settle_delivered($1, $2::uuid[], $3::registry.delivery_channel) AS settled;

-- name: defer_refused
-- Why: a failure counts only while the token is the lane's; a former owner's view of it is stale.
UPDATE registry.notification AS n
   SET attempts = least(n.attempts + 1, 32767), not_before = now() + f.wait, last_error = f.error
  FROM (SELECT u.* FROM unnest($3::uuid[], $4::interval[], $5::text[]) AS u(notification_id, wait, error)
         ORDER BY u.notification_id) AS f
 WHERE n.messenger_id = $1 AND n.deadline_at = registry.time_of(f.notification_id) AND n.notification_id = f.notification_id
   AND EXISTS (SELECT FROM registry.lane AS l WHERE l.messenger_id = $1 AND l.token = $2)
RETURNING n.notification_id;

-- name: make_due
-- Why: a person knows that the messenger has mended what it refused: all that waits for a later attempt is due now. In batches of $3 and
-- each row once, because what is pushed meanwhile may be deferred again; what a push is settling just now is skipped.
WITH waits AS MATERIALIZED (
    SELECT d.deadline_at, d.notification_id FROM registry.notification AS d
     WHERE d.messenger_id = $1 AND (d.deadline_at, d.notification_id) > (registry.time_of($2), $2) AND d.not_before > now()
     ORDER BY d.deadline_at, d.notification_id
     LIMIT $3
       FOR UPDATE SKIP LOCKED
)
UPDATE registry.notification AS n SET not_before = now() FROM waits AS w
 WHERE n.messenger_id = $1 AND n.deadline_at = w.deadline_at AND n.notification_id = w.notification_id
RETURNING n.notification_id;

-- name: record_attempts
-- Why: one row a push, written with what it settled.
INSERT INTO registry.delivery_attempt (messenger_id, attempted_at, notifications, outcome, http_status, latency_ms, error)
SELECT $1, a.attempted_at, a.notifications, a.outcome::registry.delivery_outcome, a.http_status, a.latency_ms, a.error
  FROM unnest($2::timestamptz[], $3::integer[], $4::text[], $5::smallint[], $6::integer[], $7::text[])
       AS a(attempted_at, notifications, outcome, http_status, latency_ms, error);

-- name: settle_receipts
-- Why: what a healthy lane does all day, in one statement and one commit: the receipts, and the pushes that brought them.
WITH recorded AS (
    INSERT INTO registry.delivery_attempt (messenger_id, attempted_at, notifications, outcome, http_status, latency_ms, error)
    SELECT $1, a.attempted_at, a.notifications, a.outcome::registry.delivery_outcome, a.http_status, a.latency_ms, a.error
      FROM unnest($3::timestamptz[], $4::integer[], $5::text[], $6::smallint[], $7::integer[], $8::text[])
           AS a(attempted_at, notifications, outcome, http_status, latency_ms, error)
)
SELECT registry.settle_delivered($1, $2::uuid[], 'push') AS settled;

-- name: count_pending
-- Why: the account page; bounded, so that a backlog of millions does not make it slow. What is replayed met its deadline long ago.
SELECT (SELECT count(*)::integer FROM (SELECT FROM registry.notification AS n WHERE n.messenger_id = $1
                                        UNION ALL SELECT FROM registry.notification_held AS h WHERE h.messenger_id = $1 LIMIT 1000) AS counted) AS pending,
       least((SELECT n.deadline_at FROM registry.notification AS n WHERE n.messenger_id = $1 AND NOT n.replayed ORDER BY n.deadline_at LIMIT 1),
             (SELECT h.deadline_at FROM registry.notification_held AS h WHERE h.messenger_id = $1 ORDER BY h.deadline_at LIMIT 1)) AS oldest_deadline_at;

-- name: read_own_attempts
-- Why: a messenger looks at the pushes to it of the last 30 days, the newest first. Those that began in one microsecond are on one page.
SELECT a.attempted_at, a.notifications, a.outcome, a.http_status, a.latency_ms, a.error
  FROM registry.delivery_attempt AS a
 WHERE a.messenger_id = $1 AND a.attempted_at < $2 AND a.attempted_at > now() - interval '30 days'
 ORDER BY a.attempted_at DESC
 FETCH FIRST $3 ROWS WITH TIES;

-- name: find_next_attempt
-- Why: when the next push is due: the probe of a failing endpoint, else the earliest attempt of the first 1,000 that are owed.
SELECT coalesce(l.gate_until, (SELECT min(f.not_before) FROM (SELECT n.not_before FROM registry.notification AS n WHERE n.messenger_id = $1
                                                               ORDER BY n.deadline_at, n.notification_id LIMIT 1000) AS f)) AS next_attempt_at
  FROM registry.lane AS l WHERE l.messenger_id = $1;
