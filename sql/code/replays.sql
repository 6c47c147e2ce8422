-- Replays: a request that delivered notifications be delivered again under their own ids.
--
-- A request is a row of registry.replay, and each notification it chose a row of registry.replayed_notification. From there they go back into
-- registry.notification at the request's pace. The first delivery stays in registry.notification_delivered as the only proof; a repeated
-- delivery is recorded in registry.replayed_notification. So reports, counts and alarms know first deliveries alone.

CREATE OR REPLACE FUNCTION registry.owe_again(replay bigint, at_most integer) RETURNS bigint
LANGUAGE plpgsql SECURITY DEFINER SET search_path = registry, pg_temp
AS $$
DECLARE
    asked  registry.replay;
    chosen uuid[];
    owed   bigint;
BEGIN
    SELECT r.* INTO asked FROM registry.replay AS r WHERE r.replay_id = replay AND r.finished_at IS NULL FOR UPDATE;
    IF NOT FOUND THEN
        RETURN 0;
    END IF;
    SELECT coalesce(array_agg(next.notification_id), '{}') INTO chosen
      FROM (SELECT w.notification_id FROM registry.replayed_notification AS w
             WHERE w.replay_id = replay AND w.replayed_at IS NULL
             ORDER BY w.notification_id LIMIT at_most) AS next;
    UPDATE registry.replayed_notification AS w SET replayed_at = now()
     WHERE w.messenger_id = asked.messenger_id AND w.notification_id = ANY (chosen) AND w.replay_id = replay;
    INSERT INTO registry.notification (messenger_id, generation, deadline_at, notification_id, msisdn, terminated_at, recorded_at,
                                       identification_code, undoes, replayed)
    SELECT d.messenger_id, d.generation, d.deadline_at, d.notification_id, d.msisdn, d.terminated_at, d.recorded_at, d.identification_code, d.undoes, true
      FROM registry.find_delivered(asked.messenger_id, chosen) AS d
        ON CONFLICT DO NOTHING;
    GET DIAGNOSTICS owed = ROW_COUNT;
    UPDATE registry.replay AS r SET let_in_at = now(), finished_at = CASE WHEN cardinality(chosen) < at_most THEN now() END
     WHERE r.replay_id = replay;
    RETURN owed;
END
$$;
COMMENT ON FUNCTION registry.owe_again IS 'Makes the next notifications of a replay owed again: rows of registry.notification with the ids and times they had. One that is owed again already stays as it is. Returns how many were added.';

-- EXECUTE plans for this window alone: a plan kept for any would open and lock every partition.
CREATE OR REPLACE FUNCTION registry.ask_own_replay(messenger integer, since timestamptz, until timestamptz, pace integer, at_most integer, a_day integer, dry_run boolean)
RETURNS TABLE (outcome text, replay_id bigint, notifications bigint)
LANGUAGE plpgsql SECURITY DEFINER SET search_path = registry, pg_temp
AS $$
#variable_conflict use_column
DECLARE
    known  registry.replay;
    chosen uuid[];
BEGIN
    IF NOT dry_run THEN
        -- One after the other, so that a request that is repeated finds the first one. Not by the messenger's row: choosing takes seconds, and
        -- whoever suspends the messenger must not wait for its requests.
        PERFORM pg_advisory_xact_lock(hashtextextended('registry.own_replay ' || messenger, 0));
        SELECT r.* INTO known FROM registry.replay AS r
         WHERE r.messenger_id = messenger AND r.own AND r.since_at = since AND r.until_at = until
           AND (r.finished_at IS NULL OR r.asked_at > now() - interval '1 hour')
         ORDER BY r.replay_id DESC LIMIT 1;
        IF FOUND THEN
            RETURN QUERY SELECT 'asked', known.replay_id, known.notifications;
            RETURN;
        END IF;
        IF EXISTS (SELECT FROM registry.replay AS r WHERE r.messenger_id = messenger AND r.own AND r.finished_at IS NULL) THEN
            RETURN QUERY SELECT 'busy', NULL::bigint, 0::bigint;
            RETURN;
        END IF;
        IF (SELECT count(*) FROM registry.replay AS r WHERE r.messenger_id = messenger AND r.own AND r.asked_at > now() - interval '1 day') >= a_day THEN
            RETURN QUERY SELECT 'often', NULL::bigint, 0::bigint;
            RETURN;
        END IF;
    END IF;
    EXECUTE format($choose$
        SELECT coalesce(array_agg(c.id), '{}')
          FROM (SELECT DISTINCT d.notification_id AS id FROM registry.notification_delivered AS d
                 WHERE d.messenger_id = $1 AND d.delivered_at >= %L AND d.delivered_at < %L
                   AND NOT EXISTS (SELECT FROM registry.undone AS u WHERE u.messenger_id = d.messenger_id AND u.notification_id = d.notification_id)
                 LIMIT $2) AS c
    $choose$, since, until) INTO chosen USING messenger, at_most + 1;
    IF cardinality(chosen) > at_most THEN
        RETURN QUERY SELECT 'many', NULL::bigint, 0::bigint;
        RETURN;
    END IF;
    IF dry_run OR cardinality(chosen) = 0 THEN
        RETURN QUERY SELECT 'counted', NULL::bigint, cardinality(chosen)::bigint;
        RETURN;
    END IF;
    INSERT INTO registry.replay AS r (messenger_id, own, since_at, until_at, notifications, per_second)
    VALUES (messenger, true, since, until, cardinality(chosen), pace)
    RETURNING r.* INTO known;
    INSERT INTO registry.replayed_notification (replay_id, messenger_id, notification_id)
    SELECT known.replay_id, messenger, c.id FROM unnest(chosen) AS c(id);
    RETURN QUERY SELECT 'asked', known.replay_id, known.notifications;
END
$$;
COMMENT ON FUNCTION registry.ask_own_replay IS 'A messenger asks for a replay of what was delivered to it in a window. outcome: asked (the same window within the hour, or while it is under way, gives the same replay), counted (a dry run, or nothing was delivered then), busy (another one of its own is under way), often (a_day of them within 24 hours), many (more than at_most).';

CREATE OR REPLACE FUNCTION registry.forget_replays(batch integer) RETURNS bigint
LANGUAGE plpgsql SECURITY DEFINER SET search_path = registry, pg_temp SET timezone = 'UTC'
AS $$
DECLARE
    over      date := registry.kept_from('notification_delivered');
    forgotten bigint;
BEGIN
    IF over IS NULL OR NOT pg_try_advisory_xact_lock(hashtextextended('registry.forget_replays', 0)) THEN
        RETURN 0;
    END IF;
    DELETE FROM registry.replayed_notification AS r WHERE r.ctid = ANY (ARRAY(
        SELECT e.ctid
          FROM registry.replay AS a JOIN registry.replayed_notification AS e ON e.messenger_id = a.messenger_id AND e.replay_id = a.replay_id
         WHERE a.finished_at < over
           AND NOT EXISTS (SELECT FROM registry.notification AS n WHERE n.messenger_id = e.messenger_id
                                  AND n.deadline_at = registry.time_of(e.notification_id) AND n.notification_id = e.notification_id)
         LIMIT batch));
    GET DIAGNOSTICS forgotten = ROW_COUNT;
    DELETE FROM registry.replay AS a
     WHERE a.finished_at < over
       AND NOT EXISTS (SELECT FROM registry.replayed_notification AS e WHERE e.messenger_id = a.messenger_id AND e.replay_id = a.replay_id);
    RETURN forgotten;
END
$$;
COMMENT ON FUNCTION registry.forget_replays IS 'Deletes a batch of what replays chose, where the replay ended longer ago than the policy keeps deliveries and nothing of it is owed; then the replays themselves. Returns how many notifications.';
