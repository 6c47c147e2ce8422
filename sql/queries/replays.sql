-- Replays: what was delivered is owed again, under the same ids.

-- name: count_delivered
-- Why: a dry run. Either a time window (by delivery) or ids. A mistake that was undone is not told again.
SELECT count(DISTINCT d.notification_id) AS notifications
  FROM registry.notification_delivered AS d
 WHERE d.messenger_id = $1 AND d.delivered_at >= $2 AND d.delivered_at < $3
   AND ($4::uuid[] IS NULL OR d.notification_id = ANY ($4::uuid[]))
   AND NOT EXISTS (SELECT FROM registry.undone AS u WHERE u.messenger_id = d.messenger_id AND u.notification_id = d.notification_id);

-- name: ask_replay
-- Why: the choice is made once, in one statement, and let in at its pace later. What it delivers is never in its own window.
WITH wanted AS MATERIALIZED (
    SELECT DISTINCT d.notification_id
      FROM registry.notification_delivered AS d
     WHERE d.messenger_id = $1 AND d.delivered_at >= $2 AND d.delivered_at < $3
       AND ($4::uuid[] IS NULL OR d.notification_id = ANY ($4::uuid[]))
       AND NOT EXISTS (SELECT FROM registry.undone AS u WHERE u.messenger_id = d.messenger_id AND u.notification_id = d.notification_id)
), asked AS (
    INSERT INTO registry.replay (messenger_id, per_second, since_at, until_at, notifications)
    SELECT $1, $5, CASE WHEN $4::uuid[] IS NULL THEN $2::timestamptz END, CASE WHEN $4::uuid[] IS NULL THEN $3::timestamptz END,
           (SELECT count(*) FROM wanted)
    RETURNING replay_id
), chosen AS (
    INSERT INTO registry.replayed_notification (replay_id, messenger_id, notification_id)
    SELECT asked.replay_id, $1, w.notification_id FROM asked, wanted AS w
    RETURNING 1
)
SELECT count(*) AS notifications FROM chosen;

-- name: ask_own_replay
SELECT a.outcome, a.replay_id, a.notifications FROM registry.ask_own_replay($1, $2, $3, $4, $5, $6, $7) AS a;

-- name: read_own_replays
-- Why: a messenger looks at its replays, the newest first. How many wait is counted up to a bound.
SELECT r.replay_id, r.own, r.since_at, r.until_at, r.notifications, r.asked_at, r.finished_at,
       (SELECT count(*) FROM (SELECT FROM registry.replayed_notification AS n
                               WHERE n.replay_id = r.replay_id AND n.replayed_at IS NULL AND r.finished_at IS NULL LIMIT 100000) AS w) AS waiting
  FROM registry.replay AS r
 WHERE r.messenger_id = $1
 ORDER BY r.replay_id DESC
 LIMIT 20;

-- name: read_replays
-- Why: the oldest unfinished replay of each messenger, and how many it may let in now: what its pace allows since the last time, a
-- second's worth at most, so that several processes keep one pace; no more wait in its lane than that; and
-- none come while one that was never delivered has been due for 5 s, because what is replayed has the earlier deadline and would go before
-- it. Such a one is looked for among the first and the last 1,000 by the key, so that millions that wait for a retry cost no more: a backlog
-- begins at the first, and what is new stands behind all retries.
SELECT DISTINCT ON (r.messenger_id) r.replay_id,
       least(r.per_second - waiting.notifications,
             floor(r.per_second * least(extract(epoch FROM now() - r.let_in_at), 1)))::integer AS room
  FROM registry.replay AS r
 CROSS JOIN LATERAL (SELECT count(*)::integer AS notifications
                       FROM registry.notification AS n WHERE n.messenger_id = r.messenger_id AND n.replayed) AS waiting
 WHERE r.finished_at IS NULL
   AND NOT EXISTS (SELECT FROM ((SELECT n.not_before FROM registry.notification AS n
                                  WHERE n.messenger_id = r.messenger_id AND NOT n.replayed
                                  ORDER BY n.deadline_at, n.notification_id LIMIT 1000)
                                UNION ALL
                                (SELECT n.not_before FROM registry.notification AS n
                                  WHERE n.messenger_id = r.messenger_id AND NOT n.replayed
                                  ORDER BY n.deadline_at DESC, n.notification_id DESC LIMIT 1000)) AS owed
                    WHERE owed.not_before < now() - interval '5 seconds')
 ORDER BY r.messenger_id, r.replay_id;

-- name: owe_again
SELECT registry.owe_again($1, $2) AS notifications;
