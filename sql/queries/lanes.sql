-- Lanes: who works which messenger's notifications.
--   free -> leased (lease_lanes) -> free (release_lane, or lease_until passes) ;  open -> gated (gate_lane) -> open (open_lane)

-- name: lease_lanes
-- Why: a process takes free lanes with something due; the token fences out whoever held the lane before. Its own lease it may take anew
-- (a task that died with the database), except for the lanes it is working ($4). What is due is looked for above the lane's mark only,
-- because settled rows below it may have left dead entries. When it is time to look back, or somebody says so ($5; NULL: of every lane),
-- the lane is taken without looking, and its own task reads it from the beginning. Drawn by lot, so that no lane starves where there are
-- more than $3. A gate that lies further ahead than the longest pause between probes ($6) was written by another clock, or the clock was set
-- back: it keeps nothing shut. The lease begins when the lane is taken, which may be long after this statement began to wait for that.
WITH due AS MATERIALIZED (
    SELECT free.messenger_id
      FROM registry.lane AS free JOIN registry.messenger AS m ON m.messenger_id = free.messenger_id
     WHERE (free.owner IS NULL OR free.lease_until < now() OR free.owner = $1)
       AND free.messenger_id <> ALL ($4::integer[])
       AND (free.gate_until IS NULL OR free.gate_until <= now() OR free.gate_until > now() + $6::interval)
       AND m.endpoint_url IS NOT NULL
       AND NOT EXISTS (SELECT FROM registry.hold AS h WHERE h.released_at IS NULL AND (h.messenger_id IS NULL OR h.messenger_id = free.messenger_id))
       AND (free.look_back_at <= now() OR $5::integer[] IS NULL OR free.messenger_id = ANY ($5::integer[])
            OR EXISTS (SELECT FROM registry.notification AS n
                        WHERE n.messenger_id = free.messenger_id
                          AND (n.deadline_at, n.notification_id) > (registry.time_of(free.low_water), free.low_water)
                          AND n.not_before <= now()))
     ORDER BY random()
     LIMIT $3
       FOR UPDATE OF free SKIP LOCKED
)
UPDATE registry.lane AS l
   SET owner = $1, token = l.token + 1, lease_until = clock_timestamp() + $2::interval
  FROM due, registry.messenger AS m
 WHERE l.messenger_id = due.messenger_id AND m.messenger_id = l.messenger_id
RETURNING l.messenger_id, l.token, l.failures, l.low_water,
          CASE WHEN l.messenger_id <> ALL ($5::integer[]) THEN greatest(l.look_back_at - now(), interval '0') ELSE interval '0' END AS look_back_in,
          clock_timestamp() AS leased_at, m.name, m.endpoint_url, m.batch_max, m.includes_phone_number;

-- name: renew_lease
-- Why: only the holder of the token may go on; no row means that the lane is somebody else's now.
UPDATE registry.lane AS l SET lease_until = now() + $5::interval, low_water = $3, look_back_at = now() + $4::interval
 WHERE l.messenger_id = $1 AND l.token = $2 AND l.owner IS NOT NULL
RETURNING l.token;

-- name: release_lane
-- Why: the next process need not wait for the lease to lapse.
UPDATE registry.lane AS l
   SET owner = NULL, lease_until = NULL, low_water = $3, look_back_at = now() + $4::interval,
       last_success_at = CASE WHEN $5 THEN now() ELSE l.last_success_at END
 WHERE l.messenger_id = $1 AND l.token = $2 AND l.owner IS NOT NULL
RETURNING l.token;

-- name: gate_lane
-- Why: a dead endpoint costs one row, however much it is owed.
UPDATE registry.lane AS l SET gate_until = now() + $3::interval, failures = l.failures + 1, last_error = $4
 WHERE l.messenger_id = $1 AND l.token = $2
RETURNING l.failures;

-- name: open_lane
-- Why: the canary was received.
UPDATE registry.lane AS l SET gate_until = NULL, failures = 0, last_error = NULL, last_success_at = now()
 WHERE l.messenger_id = $1 AND l.token = $2
RETURNING l.token;

-- name: probe_lane
-- Why: a person knows that the endpoint works again. The lane is probed now and not at the gate's end. Its failures stay, so that it comes
-- back through one canary.
WITH probed AS (
    UPDATE registry.lane AS l SET gate_until = NULL, look_back_at = now()
      FROM registry.lane AS before
     WHERE l.messenger_id = $1 AND before.messenger_id = l.messenger_id
    RETURNING l.messenger_id, before.failures > 0 AS was_failing
)
SELECT p.was_failing FROM probed AS p, pg_notify('registry_deliver', p.messenger_id || ' below');

-- name: read_echo_bound
-- Why: each notification makes its messenger ask again: the policy bounds how many go out a second, and the processes share that.
SELECT p.echo_per_s,
       (SELECT count(DISTINCT l.owner)::integer FROM registry.lane AS l WHERE l.lease_until > now()) AS processes
  FROM registry.policy_in_force(now()) AS p;

-- name: find_lane
-- Why: the account page.
SELECT l.gate_until, l.last_error FROM registry.lane AS l WHERE l.messenger_id = $1;

-- name: read_lanes
-- Why: how each endpoint does ($1: one messenger's): the last 100 pushes are read by an index, whatever there were before.
SELECT h.messenger, split_part(m.endpoint_url, '?', 1) AS endpoint, h.state, h.held AS is_held, h.failures, h.last_error, h.gate_until,
       h.last_success_at, h.process, p.push_p50_s, p.push_p99_s, p.failed_share
  FROM report.endpoint_health AS h
  JOIN registry.messenger AS m ON m.name = h.messenger
 CROSS JOIN LATERAL (SELECT percentile_disc(0.5) WITHIN GROUP (ORDER BY a.latency_ms) / 1000.0::float8 AS push_p50_s,
                            percentile_disc(0.99) WITHIN GROUP (ORDER BY a.latency_ms) / 1000.0::float8 AS push_p99_s,
                            (count(*) FILTER (WHERE a.outcome = 'failed') / nullif(count(*), 0)::float8) AS failed_share
                       FROM (SELECT d.latency_ms, d.outcome FROM registry.delivery_attempt AS d
                              WHERE d.messenger_id = m.messenger_id AND d.attempted_at > now() - interval '1 day'
                              ORDER BY d.attempted_at DESC LIMIT 100) AS a) AS p
 WHERE $1::text IS NULL OR m.name = $1
 ORDER BY h.messenger;
