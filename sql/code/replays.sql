-- Replays: an operator's request that delivered notifications be delivered again under their own ids.
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
