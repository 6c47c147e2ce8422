-- Operating what is owed: the watch, replays, delivery by hand, the daily digest.
--
--   the watch    one worker at a time counts what is owed, alarms and lets replays in; its lease is the one row of registry.watch
--   a replay     owes delivered notifications again under their own ids: a request in registry.replay, a row for each notification in
--                registry.replayed_notification, and from there, at the request's pace, back into registry.notification
--   by hand      a file handed over through a channel with a name: registry.settle_by_hand settles it, registry.handover keeps the name
--   the digest   what was delivered to a messenger on a day, told once, so that it can notice what it lost
--
-- A replayed notification is owed by courtesy. Its first delivery stays in registry.notification_delivered as the proof and is joined by
-- no other: a repeated one is recorded in registry.replayed_notification, so that reports, counts and alarms know first deliveries alone.

ALTER TYPE registry.delivery_channel ADD VALUE 'hand';
COMMENT ON COLUMN registry.notification_delivered.via IS 'push, pull and acknowledge, or hand: then registry.handover has the channel''s name.';

ALTER TABLE registry.policy ADD COLUMN alarm_slack interval[] NOT NULL DEFAULT '{22 hours,12 hours,1 hour,0}' CHECK (cardinality(alarm_slack) > 0);
COMMENT ON COLUMN registry.policy.alarm_slack IS 'An alarm is raised when a notification that is still owed has less than this left to its deadline; once for each of them.';

-- ---------------------------------------------------------------------------------------------------------------------------------
-- The watch

CREATE TABLE registry.watch (
    one         boolean PRIMARY KEY DEFAULT true CHECK (one),
    holder      text,
    lease_until timestamptz,
    CHECK ((holder IS NULL) = (lease_until IS NULL))
) WITH (fillfactor = 50);
INSERT INTO registry.watch DEFAULT VALUES;
COMMENT ON TABLE registry.watch IS 'Which worker is on watch: what needs doing once, whatever the number of workers. One row.';
COMMENT ON COLUMN registry.watch.one IS 'There is one row.';
COMMENT ON COLUMN registry.watch.holder IS 'The worker on watch; NULL: nobody yet.';
COMMENT ON COLUMN registry.watch.lease_until IS 'When another worker may take the watch unless it is renewed.';

-- ---------------------------------------------------------------------------------------------------------------------------------
-- Replays

ALTER TABLE registry.notification ADD COLUMN replayed boolean NOT NULL DEFAULT false;
COMMENT ON TABLE registry.notification IS 'What is owed: one termination to one messenger for one binding. Written by the fan-out trigger and by registry.owe_again; a row leaves only by registry.settle_delivered. Nothing expires.';
COMMENT ON COLUMN registry.notification.replayed IS 'Owed again by a replay: it was delivered before, so it is neither late nor overdue.';
-- Empty but for the few that a replay has let in, so it costs the fan-out nothing.
CREATE INDEX notification_replayed ON registry.notification (messenger_id) WHERE replayed;

CREATE TABLE registry.replay (
    replay_id    bigint PRIMARY KEY GENERATED ALWAYS AS IDENTITY,
    messenger_id integer NOT NULL REFERENCES registry.messenger,
    per_second   integer NOT NULL CHECK (per_second BETWEEN 1 AND 10000),
    asked_at     timestamptz NOT NULL DEFAULT now(),
    finished_at  timestamptz
);
CREATE INDEX replay_unfinished ON registry.replay (messenger_id, replay_id) WHERE finished_at IS NULL;
COMMENT ON TABLE registry.replay IS 'An operator''s request that delivered notifications be delivered again. Set finished_at to end one early.';
COMMENT ON COLUMN registry.replay.replay_id IS 'The request''s number.';
COMMENT ON COLUMN registry.replay.messenger_id IS 'To whom.';
COMMENT ON COLUMN registry.replay.per_second IS 'How many are let in a second, and how many may wait in registry.notification, so that the endpoint is not swamped.';
COMMENT ON COLUMN registry.replay.asked_at IS 'When it was asked for.';
COMMENT ON COLUMN registry.replay.finished_at IS 'When its last notification was let in.';

CREATE TABLE registry.replayed_notification (
    replay_id       bigint NOT NULL,
    messenger_id    integer NOT NULL,
    notification_id uuid NOT NULL,
    replayed_at     timestamptz,
    delivered_at    timestamptz,
    via             registry.delivery_channel,
    PRIMARY KEY (messenger_id, notification_id, replay_id),
    CHECK ((delivered_at IS NULL) = (via IS NULL) AND (delivered_at IS NULL OR replayed_at IS NOT NULL))
);
CREATE INDEX replayed_notification_waiting ON registry.replayed_notification (replay_id, notification_id) WHERE replayed_at IS NULL;
-- A day's repeats in the order of their ids, for its digest.
CREATE INDEX replayed_notification_delivered ON registry.replayed_notification
    (messenger_id, ((delivered_at AT TIME ZONE 'UTC')::date), notification_id) WHERE delivered_at IS NOT NULL;
COMMENT ON TABLE registry.replayed_notification IS 'What each replay chose: waiting to be let in, then owed again, then delivered again.';
COMMENT ON COLUMN registry.replayed_notification.replay_id IS 'The request.';
COMMENT ON COLUMN registry.replayed_notification.messenger_id IS 'To whom.';
COMMENT ON COLUMN registry.replayed_notification.notification_id IS 'The notification, under its own id.';
COMMENT ON COLUMN registry.replayed_notification.replayed_at IS 'When it was owed again; NULL: it waits.';
COMMENT ON COLUMN registry.replayed_notification.delivered_at IS 'When the messenger''s receipt of the repeat was recorded.';
COMMENT ON COLUMN registry.replayed_notification.via IS 'push, pull or hand.';

CREATE FUNCTION registry.delivered_since(ids uuid[]) RETURNS timestamptz
LANGUAGE sql STABLE STRICT PARALLEL SAFE SET search_path = registry, pg_temp
AS $$
    SELECT min(registry.time_of(i.id)) - (SELECT max(p.notice_within) FROM registry.policy AS p) - interval '1 day' FROM unnest(ids) AS i(id)
$$;
COMMENT ON FUNCTION registry.delivered_since IS 'A time before which none of these notifications can have been delivered, from their ids: what keeps a look-up to few partitions.';

-- Planned for the very ids (EXECUTE), here and below: a plan that is kept for any id opens and locks every partition there is.
CREATE FUNCTION registry.find_delivered(messenger integer, ids uuid[]) RETURNS SETOF registry.notification_delivered
LANGUAGE plpgsql STABLE SET search_path = registry, pg_temp
AS $$
BEGIN
    RETURN QUERY EXECUTE format($probe$
        SELECT d.* FROM registry.notification_delivered AS d
         WHERE d.messenger_id = $1 AND d.notification_id = ANY ($2) AND d.delivered_at >= %L
    $probe$, registry.delivered_since(ids)) USING messenger, ids;
END
$$;
COMMENT ON FUNCTION registry.find_delivered IS 'Delivered notifications of one messenger by their ids: probes of the primary key in the days they can lie in.';

CREATE FUNCTION registry.delivered_on(messenger integer, day date, after uuid, at_most integer) RETURNS TABLE (notification_id uuid)
LANGUAGE plpgsql STABLE SET search_path = registry, pg_temp SET timezone = 'UTC'
AS $$
BEGIN
    RETURN QUERY EXECUTE format($page$
        SELECT p.id
          FROM ((SELECT d.notification_id AS id FROM registry.notification_delivered AS d
                  WHERE d.messenger_id = $1 AND d.delivered_at >= %L AND d.delivered_at < %L AND d.notification_id > $3
                  ORDER BY d.notification_id LIMIT $4)
                UNION
                (SELECT r.notification_id FROM registry.replayed_notification AS r
                  WHERE r.messenger_id = $1 AND (r.delivered_at AT TIME ZONE 'UTC')::date = $2 AND r.notification_id > $3
                  ORDER BY r.notification_id LIMIT $4)) AS p
         ORDER BY p.id LIMIT $4
    $page$, day::timestamptz, (day + 1)::timestamptz) USING messenger, day, after, at_most;
END
$$;
COMMENT ON FUNCTION registry.delivered_on IS 'A page of the ids that were delivered to a messenger on a day (UTC), first or by a replay, in their order after one.';

CREATE FUNCTION registry.owe_again(replay bigint, at_most integer) RETURNS bigint
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
                                       identification_code, replayed)
    SELECT d.messenger_id, d.generation, d.deadline_at, d.notification_id, d.msisdn, d.terminated_at, d.recorded_at, d.identification_code, true
      FROM registry.find_delivered(asked.messenger_id, chosen) AS d
        ON CONFLICT DO NOTHING;
    GET DIAGNOSTICS owed = ROW_COUNT;
    IF cardinality(chosen) < at_most THEN
        UPDATE registry.replay AS r SET finished_at = now() WHERE r.replay_id = replay;
    END IF;
    RETURN owed;
END
$$;
COMMENT ON FUNCTION registry.owe_again IS 'Lets in the next notifications of a replay: rows of registry.notification again, with the ids and times they had. One that is owed again already is left as it is. Returns how many were added.';

CREATE OR REPLACE FUNCTION registry.settle_delivered(messenger integer, ids uuid[], channel registry.delivery_channel) RETURNS bigint
LANGUAGE sql VOLATILE SECURITY DEFINER SET search_path = registry, pg_temp
AS $$
    -- In the order of the ids, so that a push and a pull that settle the same ones at once wait for each other, and never in a circle.
    WITH gone AS (
        DELETE FROM registry.notification AS n
         USING (SELECT DISTINCT u.id FROM unnest(ids) AS u(id) ORDER BY u.id) AS i
         WHERE n.messenger_id = messenger AND n.deadline_at = registry.time_of(i.id) AND n.notification_id = i.id
        RETURNING n.*
    ), kept AS (
        INSERT INTO registry.notification_delivered (messenger_id, generation, attempts, deadline_at, notification_id, msisdn, terminated_at,
                                                     recorded_at, via, identification_code)
        SELECT g.messenger_id, g.generation, least(g.attempts + (channel = 'push')::int, 32767), g.deadline_at, g.notification_id, g.msisdn, g.terminated_at,
               g.recorded_at, channel, g.identification_code
          FROM gone AS g WHERE NOT g.replayed
    ), repeated AS (
        UPDATE registry.replayed_notification AS r SET delivered_at = now(), via = channel
          FROM gone AS g
         WHERE g.replayed AND r.messenger_id = g.messenger_id AND r.notification_id = g.notification_id
           AND r.replayed_at IS NOT NULL AND r.delivered_at IS NULL
    )
    SELECT count(*) FROM gone
$$;
COMMENT ON FUNCTION registry.settle_delivered IS 'Settles delivered notifications of one messenger: the only way out of registry.notification. They move to notification_delivered, where their proof is not there already. Returns how many; others'' ids and settled ids are ignored.';

-- ---------------------------------------------------------------------------------------------------------------------------------
-- Delivery by hand

CREATE TABLE registry.handover (
    messenger_id  integer NOT NULL REFERENCES registry.messenger,
    handed_at     timestamptz NOT NULL DEFAULT now(),
    channel       text NOT NULL CHECK (channel ~ '^[a-z0-9][a-z0-9._-]{0,62}$'),
    notifications bigint NOT NULL CHECK (notifications > 0),
    file_sha256   bytea CHECK (octet_length(file_sha256) = 32),
    PRIMARY KEY (messenger_id, handed_at)
);
COMMENT ON TABLE registry.handover IS 'The second channel: notifications handed over otherwise than over HTTP. Append-only; its deliveries have via = hand and the same time.';
COMMENT ON COLUMN registry.handover.messenger_id IS 'To whom.';
COMMENT ON COLUMN registry.handover.handed_at IS 'When the receipt was recorded: delivered_at of each of them.';
COMMENT ON COLUMN registry.handover.channel IS 'The channel''s name, as the operator gave it.';
COMMENT ON COLUMN registry.handover.notifications IS 'How many this settled.';
COMMENT ON COLUMN registry.handover.file_sha256 IS 'SHA-256 of the file that was handed over or receipted; NULL where ids were given.';

-- PL/pgSQL, because an SQL function would name 'hand' in the transaction that makes it.
CREATE FUNCTION registry.settle_by_hand(messenger integer, ids uuid[], channel_name text, file bytea) RETURNS bigint
LANGUAGE plpgsql SECURITY DEFINER SET search_path = registry, pg_temp
AS $$
DECLARE
    settled bigint := registry.settle_delivered(messenger, ids, 'hand');
BEGIN
    IF settled > 0 THEN
        INSERT INTO registry.handover (messenger_id, channel, notifications, file_sha256) VALUES (messenger, channel_name, settled, file);
    END IF;
    RETURN settled;
END
$$;
COMMENT ON FUNCTION registry.settle_by_hand IS 'Settles notifications that were handed over, with the name of the channel. Returns how many; others'' ids and settled ids are ignored.';

-- ---------------------------------------------------------------------------------------------------------------------------------
-- The daily digest

CREATE TABLE registry.digest (
    messenger_id  integer NOT NULL REFERENCES registry.messenger,
    day           date NOT NULL,
    notifications bigint NOT NULL CHECK (notifications >= 0),
    first_id      uuid,
    last_id       uuid,
    sha256        bytea NOT NULL CHECK (octet_length(sha256) = 32),
    made_at       timestamptz NOT NULL DEFAULT now(),
    attempts      integer NOT NULL DEFAULT 0,
    not_before    timestamptz NOT NULL DEFAULT now(),
    delivered_at  timestamptz,
    last_error    text,
    PRIMARY KEY (messenger_id, day),
    CHECK ((notifications = 0) = (first_id IS NULL) AND (first_id IS NULL) = (last_id IS NULL))
);
CREATE INDEX digest_due ON registry.digest (not_before) WHERE delivered_at IS NULL;
COMMENT ON TABLE registry.digest IS 'What was delivered to a messenger on a day (UTC), by whatever channel: one row, and one notifications.digest event, a messenger and day.';
COMMENT ON COLUMN registry.digest.messenger_id IS 'To whom.';
COMMENT ON COLUMN registry.digest.day IS 'The day, UTC, of delivered_at.';
COMMENT ON COLUMN registry.digest.notifications IS 'How many different notifications.';
COMMENT ON COLUMN registry.digest.first_id IS 'The lowest id; NULL where there was none.';
COMMENT ON COLUMN registry.digest.last_id IS 'The highest id; NULL where there was none.';
COMMENT ON COLUMN registry.digest.sha256 IS 'SHA-256 over the ids in ascending order, each in lower case and followed by a line feed.';
COMMENT ON COLUMN registry.digest.made_at IS 'When it was made: the event''s timestamp, the same on every retry.';
COMMENT ON COLUMN registry.digest.attempts IS 'Pushes begun.';
COMMENT ON COLUMN registry.digest.not_before IS 'When the next push is due.';
COMMENT ON COLUMN registry.digest.delivered_at IS 'When the endpoint answered 2xx; NULL: not yet.';
COMMENT ON COLUMN registry.digest.last_error IS 'What the last push met.';

-- ---------------------------------------------------------------------------------------------------------------------------------
-- Who may do what

GRANT SELECT, UPDATE (holder, lease_until) ON registry.watch TO registryd_app;
GRANT SELECT, INSERT ON registry.replay TO registryd_app;
GRANT SELECT, INSERT (replay_id, messenger_id, notification_id) ON registry.replayed_notification TO registryd_app;
GRANT SELECT ON registry.handover TO registryd_app;
GRANT SELECT, INSERT, UPDATE (attempts, not_before, delivered_at, last_error) ON registry.digest TO registryd_app;
GRANT EXECUTE ON FUNCTION
    registry.delivered_since(uuid[]),
    registry.find_delivered(integer, uuid[]),
    registry.delivered_on(integer, date, uuid, integer),
    registry.owe_again(bigint, integer),
    registry.settle_by_hand(integer, uuid[], text, bytea)
    TO registryd_app;
