-- Backlogs: what is owed, by messenger. Everything is read by keys and counted up to a bound, so that a look costs the same in front of a
-- thousand and of millions.

-- name: read_backlogs
-- Why: each messenger's backlog: counts up to $1, the earliest deadline, and the pace of its last 2,000 pushes in five minutes. What the
-- messenger refuses and is overdue has an alarm of its own and no part in the earliest deadline: it would hide the others' for ever. It may be millions,
-- so behind it the earliest deadline is looked for among the first $1 and the last $1 that are overdue, and among all that are not.
SELECT m.messenger_id, m.name, m.endpoint_url IS NOT NULL AS has_endpoint, least(owed.pending + waves.held, $1) AS pending, late.overdue, late.refused, again.replayed,
       waves.held,
       EXISTS (SELECT FROM registry.hold AS h WHERE h.released_at IS NULL AND (h.messenger_id IS NULL OR h.messenger_id = m.messenger_id)) AS is_held,
       oldest.deadline_at, oldest.recorded_at, pace.received, pace.received_within, l.gate_until IS NOT NULL AS is_gated, l.last_error,
       l.last_success_at, l.alarms_below, l.second_channel_due, l.refused_told,
       now() AS seen_at
  FROM registry.messenger AS m
  JOIN registry.lane AS l ON l.messenger_id = m.messenger_id
 CROSS JOIN LATERAL (SELECT count(*) AS pending
                       FROM (SELECT FROM registry.notification AS n WHERE n.messenger_id = m.messenger_id LIMIT $1) AS counted) AS owed
 CROSS JOIN LATERAL (SELECT count(*) AS held
                       FROM (SELECT FROM registry.notification_held AS n WHERE n.messenger_id = m.messenger_id LIMIT $1) AS counted) AS waves
 CROSS JOIN LATERAL (SELECT count(*) AS overdue, count(*) FILTER (WHERE registry.is_refused(counted.last_error)) AS refused
                       FROM ((SELECT n.last_error FROM registry.notification AS n
                               WHERE n.messenger_id = m.messenger_id AND n.deadline_at < now() AND NOT n.replayed LIMIT $1)
                             UNION ALL
                             (SELECT NULL FROM registry.notification_held AS n WHERE n.messenger_id = m.messenger_id AND n.deadline_at < now() LIMIT $1)
                             LIMIT $1) AS counted) AS late
 CROSS JOIN LATERAL (SELECT count(*) AS replayed FROM registry.notification AS n WHERE n.messenger_id = m.messenger_id AND n.replayed) AS again
  LEFT JOIN LATERAL (SELECT e.deadline_at, e.recorded_at
                       FROM ((SELECT n.deadline_at, n.recorded_at
                                FROM (SELECT o.deadline_at, o.recorded_at, o.last_error, o.notification_id FROM registry.notification AS o
                                       WHERE o.messenger_id = m.messenger_id AND o.deadline_at < now() AND NOT o.replayed
                                       ORDER BY o.deadline_at, o.notification_id LIMIT $1) AS n
                               WHERE NOT registry.is_refused(n.last_error) ORDER BY n.deadline_at, n.notification_id LIMIT 1)
                             UNION ALL
                             (SELECT n.deadline_at, n.recorded_at
                                FROM (SELECT o.deadline_at, o.recorded_at, o.last_error FROM registry.notification AS o
                                       WHERE o.messenger_id = m.messenger_id AND o.deadline_at < now() AND NOT o.replayed
                                       ORDER BY o.deadline_at DESC, o.notification_id DESC LIMIT $1) AS n
                               WHERE NOT registry.is_refused(n.last_error) ORDER BY n.deadline_at LIMIT 1)
                             UNION ALL
                             (SELECT n.deadline_at, n.recorded_at FROM registry.notification AS n
                               WHERE n.messenger_id = m.messenger_id AND n.deadline_at >= now() AND NOT n.replayed
                               ORDER BY n.deadline_at, n.notification_id LIMIT 1)
                             UNION ALL
                             (SELECT n.deadline_at, n.recorded_at FROM registry.notification_held AS n
                               WHERE n.messenger_id = m.messenger_id ORDER BY n.deadline_at, n.notification_id LIMIT 1)) AS e
                      ORDER BY e.deadline_at LIMIT 1) AS oldest ON true
 CROSS JOIN LATERAL (SELECT coalesce(sum(a.notifications) FILTER (WHERE a.outcome = 'acknowledged'), 0)::bigint AS received,
                            CASE WHEN count(*) < 2000 THEN interval '5 minutes' ELSE now() - min(a.attempted_at) END AS received_within
                       FROM (SELECT d.notifications, d.outcome, d.attempted_at FROM registry.delivery_attempt AS d
                              WHERE d.messenger_id = m.messenger_id AND d.attempted_at > now() - interval '5 minutes'
                              ORDER BY d.attempted_at DESC LIMIT 2000) AS a) AS pace
 ORDER BY m.messenger_id;

-- name: sample_pending
-- Why: how many are pending beyond the bound, by messenger, from 5,000 pages of the table, however large it is.
SELECT n.messenger_id, round(count(*) * scale.factor)::bigint AS pending
  FROM (SELECT greatest(pg_relation_size('registry.notification') / 8192 / 5000.0, 1)::real AS factor) AS scale
 CROSS JOIN registry.notification AS n TABLESAMPLE SYSTEM (100.0 / greatest(pg_relation_size('registry.notification') / 8192 / 5000.0, 1))
 GROUP BY n.messenger_id, scale.factor;

-- name: sum_owed
-- Why: exact figures that cost what there is of statements since they were last folded, and not of notifications.
SELECT n.messenger_id, sum(n.pending)::bigint AS pending, coalesce(sum(n.pending) FILTER (WHERE n.due < now()), 0)::bigint AS overdue
  FROM registry.notification_movement AS n GROUP BY n.messenger_id;

-- name: note_alarms
-- Why: each alarm is told once, whichever process sees it first: only where what was raised is still what that process read.
UPDATE registry.lane AS l SET alarms_below = $5, second_channel_due = $6, refused_told = $7
 WHERE l.messenger_id = $1 AND l.alarms_below = $2::interval[] AND l.second_channel_due = $3 AND l.refused_told = $4
RETURNING l.messenger_id;

-- name: read_thresholds
SELECT p.alarm_slack FROM registry.policy_in_force(now()) AS p;

-- name: count_late_today
-- Why: what a person on duty asks first.
SELECT coalesce(sum(d.late), 0)::bigint AS late FROM registry.delivered_day AS d
 WHERE d.delivered_on = (now() AT TIME ZONE 'UTC')::date AND d.late > 0;
