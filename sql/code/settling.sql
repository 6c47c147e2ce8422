CREATE OR REPLACE FUNCTION registry.settle_delivered(messenger integer, ids uuid[], channel registry.delivery_channel) RETURNS bigint
LANGUAGE sql VOLATILE SECURITY DEFINER SET search_path = registry, pg_temp
AS $$
    -- Rows are locked in the order of the ids, so that a push and a pull that settle the same ones cannot deadlock.
    WITH gone AS (
        DELETE FROM registry.notification AS n
         USING (SELECT DISTINCT u.id FROM unnest(ids) AS u(id) ORDER BY u.id) AS i
         WHERE n.messenger_id = messenger AND n.deadline_at = registry.time_of(i.id) AND n.notification_id = i.id
        RETURNING n.*
    ), kept AS (
        INSERT INTO registry.notification_delivered (messenger_id, generation, attempts, deadline_at, notification_id, msisdn, terminated_at,
                                                     recorded_at, via, identification_code, undoes)
        SELECT g.messenger_id, g.generation, least(g.attempts + (channel = 'push')::int, 32767), g.deadline_at, g.notification_id, g.msisdn, g.terminated_at,
               g.recorded_at, channel, g.identification_code, g.undoes
          FROM gone AS g WHERE NOT g.replayed
    ), repeated AS (
        UPDATE registry.replayed_notification AS r SET delivered_at = now(), via = channel
          FROM gone AS g
         WHERE g.replayed AND r.messenger_id = g.messenger_id AND r.notification_id = g.notification_id
           AND r.replayed_at IS NOT NULL AND r.delivered_at IS NULL
    )
    SELECT count(*) FROM gone
$$;
COMMENT ON FUNCTION registry.settle_delivered IS 'Settles delivered notifications of one messenger. It is the way out of registry.notification; the other is a withdrawal by two persons. First deliveries move to notification_delivered. Returns how many; ids of others and settled ones are ignored.';

-- In PL/pgSQL, because an SQL function would use the enum's value 'hand' in the transaction that creates it.
CREATE OR REPLACE FUNCTION registry.settle_by_hand(messenger integer, ids uuid[], channel_name text, file bytea) RETURNS bigint
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
COMMENT ON FUNCTION registry.settle_by_hand IS 'Settles notifications that were delivered by hand, and records the channel. Returns how many; ids of others and settled ones are ignored.';

CREATE OR REPLACE FUNCTION registry.delivered_since(ids uuid[]) RETURNS timestamptz
LANGUAGE sql STABLE STRICT PARALLEL SAFE SET search_path = registry, pg_temp
AS $$
    SELECT min(registry.time_of(i.id)) - (SELECT max(p.notice_within) FROM registry.policy AS p) - interval '1 day' FROM unnest(ids) AS i(id)
$$;
COMMENT ON FUNCTION registry.delivered_since IS 'A time before which none of these notifications can have been delivered, computed from their ids. It keeps a look-up to few partitions.';

-- EXECUTE, here and below, plans for these ids alone: a plan kept for any id would open and lock every partition.
CREATE OR REPLACE FUNCTION registry.find_delivered(messenger integer, ids uuid[]) RETURNS SETOF registry.notification_delivered
LANGUAGE plpgsql STABLE SET search_path = registry, pg_temp
AS $$
BEGIN
    RETURN QUERY EXECUTE format($probe$
        SELECT d.* FROM registry.notification_delivered AS d
         WHERE d.messenger_id = $1 AND d.notification_id = ANY ($2) AND d.delivered_at >= %L
    $probe$, registry.delivered_since(ids)) USING messenger, ids;
END
$$;
COMMENT ON FUNCTION registry.find_delivered IS 'Finds delivered notifications of one messenger by their ids. It probes the primary key in the partitions where they can be.';

CREATE OR REPLACE FUNCTION registry.delivered_on(messenger integer, day date, after uuid, at_most integer) RETURNS TABLE (notification_id uuid)
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
COMMENT ON FUNCTION registry.delivered_on IS 'The ids, in order and after a given one, that were delivered to a messenger on a day (UTC), first or by a replay. One page of them.';
