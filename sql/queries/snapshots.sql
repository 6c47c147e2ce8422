-- Compares billing's whole table with the registry and writes only the differences. import_change holds one row for each number that differs;
-- its kind says what is to be done:
--
--   activated, terminated, holder_changed   what billing's events of these names do
--   updated                                 the status or end user changes
--   newer                                   nothing: the registry learned of it after the snapshot was taken
--   unread                                  nothing: the number stands on a line that could not be read

-- name: is_fed
-- Why: where events are applied too, a snapshot must say when it was true ($1: about that time).
SELECT EXISTS (SELECT FROM registry.feed_event AS e WHERE e.recorded_at > $1::timestamptz - interval '1 day') AS fed;

-- name: compare_snapshot
-- Why: one pass over both tables. A later started_at, or another kind of holder, means another holder; for the latter the change is dated to the
-- snapshot's own time, because nothing better is known. An earlier started_at is no change: billing may know the day where an event told the
-- second. Nor is one that is later by less than a day, where the start did not come from a snapshot (recorded_at is not NULL): of the two sources
-- one lacks the fraction of a second, or writes a local day as a day of UTC. Nor is one before 1970, when nobody had to be told. The counts also tell whether a number stands twice in the file: then the lines that met a contract are more than the contracts that
-- met a line.
WITH changes AS (
    INSERT INTO import_change (kind, msisdn, generation, ended_at, started_at, status, holder, end_user)
    SELECT CASE WHEN greatest(c.recorded_at, c.started_at, (SELECT l.as_of FROM registry.last_snapshot AS l)) > $1 THEN 'newer'
                WHEN c.msisdn IS NULL THEN 'activated'
                WHEN c.msisdn = ANY ($2::bigint[]) THEN 'unread'
                WHEN s.msisdn IS NULL THEN 'terminated'
                WHEN s.started_at > c.same_until OR s.holder <> c.holder THEN 'holder_changed'
                ELSE 'updated' END,
           coalesce(s.msisdn, c.msisdn), c.generation,
           CASE WHEN s.started_at > c.started_at AND s.started_at >= 'epoch' THEN s.started_at ELSE $1 END,
           CASE WHEN s.started_at > c.started_at AND s.started_at >= 'epoch' OR c.msisdn IS NULL THEN s.started_at ELSE $1 END,
           s.status, s.holder, s.end_user
      FROM import_contract AS s
      FULL JOIN (SELECT l.msisdn, l.generation, l.started_at, l.recorded_at, l.status, l.holder, l.end_user,
                        greatest(CASE WHEN l.recorded_at IS NULL THEN l.started_at ELSE l.started_at + interval '23:59:59.999999' END,
                                 '1969-12-31 23:59:59.999999+00') AS same_until
                   FROM registry.contract AS l WHERE l.ended_at IS NULL) AS c ON c.msisdn = s.msisdn
     WHERE s.msisdn IS NULL OR c.msisdn IS NULL
        OR s.started_at > c.same_until OR s.holder <> c.holder OR s.status <> c.status OR s.end_user <> c.end_user
    RETURNING msisdn, generation, status
)
SELECT (SELECT count(*) FROM registry.contract AS l WHERE l.ended_at IS NULL) AS live,
       count(*) FILTER (WHERE n.status IS NULL) AS missing,
       count(*) FILTER (WHERE n.generation IS NULL) AS unknown,
       count(DISTINCT n.msisdn) FILTER (WHERE n.generation IS NULL) AS unknown_numbers
  FROM changes AS n;

-- name: analyze_changes
SELECT true AS made FROM (SELECT registry.analyze_changes()) AS analyzed;

-- name: lock_changing
-- Why: locks are taken in the order of the numbers, as bindings take theirs, so that the two cannot deadlock.
SELECT count(*) AS contracts
  FROM (SELECT FROM registry.contract AS c JOIN import_change AS n ON n.msisdn = c.msisdn AND n.generation = c.generation
         WHERE n.kind IN ('terminated', 'holder_changed', 'updated') ORDER BY c.msisdn FOR NO KEY UPDATE OF c) AS locked;

-- name: yield_changed
-- Why: an event or a DBA may have changed a contract after it was compared.
UPDATE import_change AS n
   SET kind = 'newer'
 WHERE n.kind IN ('terminated', 'holder_changed', 'updated')
   AND NOT EXISTS (SELECT FROM registry.contract AS c
                    WHERE c.msisdn = n.msisdn AND c.generation = n.generation AND c.ended_at IS NULL
                      AND (c.recorded_at IS NULL OR c.recorded_at <= $1));

-- name: follow_earlier
-- Why: a number that had holders before gets its next generation, which cannot begin before the last one ended. A contract that was started
-- or ended after the snapshot is left as it is.
UPDATE import_change AS n
   SET kind = CASE WHEN e.ended_at IS NULL OR greatest(e.ended_at, e.recorded_at) > $1 THEN 'newer' ELSE n.kind END,
       generation = e.generation, started_at = greatest(n.started_at, e.ended_at)
  FROM registry.contract AS e
 WHERE n.kind = 'activated' AND e.msisdn = n.msisdn
   AND NOT EXISTS (SELECT FROM registry.contract AS l WHERE l.msisdn = e.msisdn AND l.generation > e.generation);

-- name: count_changes
SELECT n.kind, count(*) AS contracts FROM import_change AS n GROUP BY n.kind;

-- name: count_turned
-- Why: who would turn from present to absent, by the rule that answers queries and the policy in force. It is counted before anything is applied. `near`
-- are those whose next holder would start within a day of them: a feed that tells another time of the same start looks like that.
SELECT count(*) FILTER (WHERE registry.is_present(c.status, c.unverified, p.organisation_rule, p.suspended_is_present)
                          AND (n.kind = 'terminated'
                               OR NOT registry.is_present(n.status, n.end_user = 'unregistered', p.organisation_rule, p.suspended_is_present))) AS absent,
       count(*) FILTER (WHERE n.kind = 'holder_changed' AND n.ended_at < c.started_at + interval '1 day') AS near
  FROM import_change AS n
  JOIN registry.contract AS c ON c.msisdn = n.msisdn AND c.generation = n.generation
  LEFT JOIN registry.policy_in_force(now()) AS p ON true
 WHERE n.kind IN ('terminated', 'holder_changed', 'updated') AND c.ended_at IS NULL;

-- name: declare_complete
-- Why: a whole snapshot is every contract there is, unless a newer one was applied before ($1: when this one was taken).
SELECT true AS declared
  FROM (SELECT registry.declare_complete('snapshot', $2) FROM registry.last_snapshot AS l WHERE l.as_of <= $1) AS said;

-- name: count_owed
-- Why: the notifications that the ends cause are counted from bindings: before applying ($1 false) from live ones, afterwards from those that
-- ended with their contract. Beside them stands what bounds their speed: the messenger's latency in the last day, and the policy.
SELECT m.name AS messenger, o.notifications, m.batch_max, push.latency_ms, p.echo_per_s
  FROM (SELECT b.messenger_id, count(*) AS notifications
          FROM import_change AS n
          JOIN registry.binding AS b ON b.msisdn = n.msisdn AND b.generation = n.generation
         WHERE n.kind IN ('terminated', 'holder_changed') AND CASE WHEN $1 THEN b.end_reason = 'terminated' ELSE b.ended_at IS NULL END
         GROUP BY b.messenger_id) AS o
  JOIN registry.messenger AS m ON m.messenger_id = o.messenger_id
  LEFT JOIN registry.policy_in_force(now()) AS p ON true
 CROSS JOIN LATERAL (SELECT avg(a.latency_ms)::float8 AS latency_ms FROM registry.delivery_attempt AS a
                      WHERE a.messenger_id = o.messenger_id AND a.attempted_at > now() - interval '1 day' AND a.outcome = 'acknowledged') AS push
 ORDER BY m.name;

-- name: apply_changes
SELECT a.ended, a.updated, a.started FROM registry.apply_snapshot($1) AS a;

-- name: note_snapshot
-- Why: a person asks what billing's last snapshot did.
SELECT coalesce(registry.note_snapshot($1, $2, $3, $4, $5, $6), false) AS noted;
