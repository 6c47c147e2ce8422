-- What became of one notification, and the settling of what was delivered by hand.

-- name: find_pending
-- Why: the id begins with the deadline, so the row is found by one probe of the primary key for each messenger.
SELECT m.messenger_id, m.name, n.msisdn, n.generation, n.identification_code, n.terminated_at, n.deadline_at, n.recorded_at, n.attempts,
       n.not_before, n.last_error, n.replayed, n.undoes, NULL::bigint AS wave_id
  FROM registry.messenger AS m
  JOIN registry.notification AS n ON n.messenger_id = m.messenger_id AND n.deadline_at = registry.time_of($1) AND n.notification_id = $1;

-- name: find_held
-- Why: the same for one that is held in a wave.
SELECT m.messenger_id, m.name, h.msisdn, h.generation, h.identification_code, h.terminated_at, h.deadline_at, h.recorded_at, 0 AS attempts,
       h.recorded_at AS not_before, NULL::text AS last_error, false AS replayed, NULL::uuid AS undoes, h.wave_id
  FROM registry.messenger AS m
  JOIN registry.notification_held AS h ON h.messenger_id = m.messenger_id AND h.deadline_at = registry.time_of($1) AND h.notification_id = $1;

-- name: find_delivered
-- Why: the same for delivered ones; the function searches the partitions from the contract's end on.
SELECT m.messenger_id, m.name, d.msisdn, d.generation, d.identification_code, d.terminated_at, d.deadline_at, d.recorded_at, d.attempts,
       d.delivered_at, d.via, h.channel, h.file_sha256, d.undoes
  FROM registry.messenger AS m
 CROSS JOIN LATERAL registry.find_delivered(m.messenger_id, ARRAY[$1::uuid]) AS d
  LEFT JOIN registry.handover AS h ON h.messenger_id = d.messenger_id AND h.handed_at = d.delivered_at;

-- name: find_withdrawn
SELECT m.messenger_id, m.name, w.msisdn, w.generation, w.identification_code, w.terminated_at, w.deadline_at, w.recorded_at, w.attempts,
       w.withdrawn_at, w.request, w.reason
  FROM registry.messenger AS m
  JOIN registry.notification_withdrawn AS w ON w.messenger_id = m.messenger_id AND w.notification_id = $1;

-- name: find_undoing
-- Why: the notification that told its messenger that this one was a mistake.
SELECT u.reinstatement_id FROM registry.undone AS u WHERE u.messenger_id = $1 AND u.notification_id = $2;

-- name: find_ended
SELECT c.started_at, c.ended_at, c.end_reason FROM registry.contract AS c WHERE c.msisdn = $1 AND c.generation = $2;

-- name: find_replays
SELECT r.asked_at, n.replayed_at, n.delivered_at, n.via
  FROM registry.replayed_notification AS n JOIN registry.replay AS r ON r.replay_id = n.replay_id
 WHERE n.messenger_id = $1 AND n.notification_id = $2 ORDER BY r.asked_at;

-- name: read_attempts
-- Why: the last pushes to the messenger while it was owed. Which notifications a push held is not recorded.
SELECT a.attempted_at, a.notifications, a.outcome, a.http_status, a.latency_ms, a.error
  FROM registry.delivery_attempt AS a
 WHERE a.messenger_id = $1 AND a.attempted_at >= $2 AND a.attempted_at <= $3
 ORDER BY a.attempted_at DESC
 LIMIT $4;

-- name: settle_by_hand
SELECT registry.settle_by_hand($1, $2::uuid[], $3, $4) AS settled;
