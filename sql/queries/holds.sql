-- The brake: notifications that a person holds back, and waves that hold themselves.

-- name: hold_notifications
-- Why: one hold at a time for a messenger ($1; NULL: for all), so that its release is plain. No row: there is one already. $3, here and below: the
-- person who does it in the console; NULL: whoever has logged in to the database.
INSERT INTO registry.hold (messenger_id, reason, held_by) VALUES ($1, $2, coalesce($3::text, session_user))
    ON CONFLICT (coalesce(messenger_id, 0)) WHERE released_at IS NULL DO NOTHING
RETURNING hold_id;

-- name: release_notifications
UPDATE registry.hold AS h SET released_at = now(), released_by = coalesce($3::text, session_user), release_reason = $2
 WHERE h.messenger_id IS NOT DISTINCT FROM $1 AND h.released_at IS NULL
RETURNING h.hold_id;

-- name: read_holds
-- Why: deliver processes ask twice a second whose pushes must not begin. NULL: nobody's may.
SELECT h.messenger_id, h.reason, h.held_at, h.held_by FROM registry.hold AS h WHERE h.released_at IS NULL ORDER BY h.messenger_id NULLS FIRST;

-- name: find_hold
-- Why: a messenger that pulls must not take silence for "nothing is owed".
SELECT EXISTS (SELECT FROM registry.hold AS h WHERE h.released_at IS NULL AND (h.messenger_id IS NULL OR h.messenger_id = $1)) AS by_hand,
       EXISTS (SELECT FROM registry.notification_held AS n WHERE n.messenger_id = $1) AS in_wave;

-- name: read_waves
-- Why: those that still hold something, and those that nobody was told of, though no messenger knew their contracts: somebody ended too many.
SELECT w.wave_id, w.began_at, w.last_at, w.ended_by, w.ends, w.notifications, w.notifications - w.released - w.withdrawn AS held,
       w.released, w.withdrawn, w.alarms,
       oldest.deadline_at AS oldest_deadline_at, coalesce(now() > oldest.recorded_at + (oldest.deadline_at - oldest.recorded_at) / 2, false) AS half_is_gone
  FROM registry.wave AS w
  LEFT JOIN LATERAL (SELECT n.deadline_at, n.recorded_at FROM registry.notification_held AS n WHERE n.wave_id = w.wave_id
                      ORDER BY n.deadline_at LIMIT 1) AS oldest ON true
 WHERE oldest.deadline_at IS NOT NULL OR w.alarms = 0
 ORDER BY w.wave_id;

-- name: note_wave_alarm
-- Why: each alarm is told once, whichever process sees it first.
UPDATE registry.wave AS w SET alarms = $3 WHERE w.wave_id = $1 AND w.alarms = $2 RETURNING w.wave_id;

-- name: release_wave
SELECT registry.release_wave($1, $2, $3, $4) AS released;
