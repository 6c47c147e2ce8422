-- The bound on ends: how many contracts may end in an hour before somebody must look.
--
-- Every path asks registry.ends_left() first. Billing's events beyond it wait, imports and policies stop, and what comes all the same, by SQL, is
-- written as held (ends.sql).

CREATE OR REPLACE FUNCTION registry.live_contracts() RETURNS bigint
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = registry, pg_temp
AS $$ SELECT coalesce(sum(m.activated - m.terminated - m.ported_out - m.holder_changed), 0)::bigint FROM registry.contract_movement AS m $$;
COMMENT ON FUNCTION registry.live_contracts IS 'How many contracts are live, from what started and ended, without a look at the contracts.';

CREATE OR REPLACE FUNCTION registry.ends_bound() RETURNS bigint
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = registry, pg_temp
AS $$
    SELECT greatest(p.ends_max, ceil(p.ends_max_share * registry.live_contracts()))::bigint FROM registry.policy_in_force(now()) AS p
$$;
COMMENT ON FUNCTION registry.ends_bound IS 'How many contracts may end in an hour by the policy in force.';

CREATE OR REPLACE FUNCTION registry.ended_last_hour() RETURNS bigint
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = registry, pg_temp
AS $$ SELECT coalesce(sum(e.ends), 0)::bigint FROM registry.ends_recorded AS e WHERE e.recorded_at > now() - interval '1 hour' $$;
COMMENT ON FUNCTION registry.ended_last_hour IS 'How many ends that count towards the bound were recorded in the last hour.';

CREATE OR REPLACE FUNCTION registry.fold_ends() RETURNS boolean
LANGUAGE plpgsql SECURITY DEFINER SET search_path = registry, pg_temp
AS $$
BEGIN
    IF NOT pg_try_advisory_xact_lock(hashtextextended('registry.fold_movements', 0)) THEN
        RETURN false;
    END IF;
    -- Only minutes that have something to fold are taken, because this runs every few seconds. A minute's ends stand at its last moment, so
    -- that they count for no less than an hour.
    WITH folded AS (
        DELETE FROM registry.ends_recorded AS e
         WHERE e.recorded_at <= now() - interval '1 hour'
            OR date_trunc('minute', e.recorded_at) IN (
               SELECT date_trunc('minute', m.recorded_at) FROM registry.ends_recorded AS m GROUP BY 1 HAVING count(*) > 1)
        RETURNING *)
    INSERT INTO registry.ends_recorded (recorded_at, ends)
    SELECT max(f.recorded_at), sum(f.ends) FROM folded AS f WHERE f.recorded_at > now() - interval '1 hour' GROUP BY date_trunc('minute', f.recorded_at);
    RETURN true;
END
$$;
COMMENT ON FUNCTION registry.fold_ends IS 'Makes one row a minute of ends_recorded and forgets what is older than an hour. Each end sums that table, so this runs often.';

CREATE OR REPLACE FUNCTION registry.ends_left() RETURNS bigint
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = registry, pg_temp
AS $$
    SELECT greatest(registry.ends_bound() - registry.ended_last_hour(), 0)
           + coalesce((SELECT sum(a.ends - a.used) FROM registry.wave_allowance AS a WHERE a.until_at > now()), 0)::bigint
$$;
COMMENT ON FUNCTION registry.ends_left IS 'How many more contracts may end now: the policy''s bound less what ended in the last hour, and what allowances in force have left.';

CREATE OR REPLACE FUNCTION registry.wave_of(ending bigint) RETURNS bigint
LANGUAGE plpgsql SECURITY DEFINER SET search_path = registry, pg_temp
AS $$
DECLARE
    ended     bigint := registry.ended_last_hour();
    allowed   bigint;
    allowance record;
    wave      bigint;
BEGIN
    -- The number of the policy is looked at first: mostly it is enough, and the live contracts need not be counted.
    IF ended + ending <= (SELECT p.ends_max FROM registry.policy_in_force(now()) AS p) OR ended + ending <= registry.ends_bound() THEN
        INSERT INTO registry.ends_recorded (ends) VALUES (ending);
        RETURN NULL;
    END IF;
    -- What a person allowed is taken first, so that the bound stays for the ends that come every day.
    IF ending <= registry.ends_left() THEN
        allowed := ending;
        FOR allowance IN SELECT a.allowance_id, a.ends - a.used AS unused FROM registry.wave_allowance AS a
                          WHERE a.until_at > now() AND a.used < a.ends ORDER BY a.until_at, a.allowance_id FOR UPDATE LOOP
            UPDATE registry.wave_allowance AS a SET used = a.used + least(allowance.unused, allowed) WHERE a.allowance_id = allowance.allowance_id;
            allowed := allowed - least(allowance.unused, allowed);
            EXIT WHEN allowed = 0;
        END LOOP;
        INSERT INTO registry.ends_recorded (ends) SELECT allowed WHERE allowed > 0;
        RETURN NULL;
    END IF;
    -- A user's statements within an hour are one wave. One that another transaction is writing is passed over: nobody waits here.
    SELECT w.wave_id INTO wave FROM registry.wave AS w
     WHERE w.ended_by = session_user AND w.began_at > now() - interval '1 hour' AND w.released_at IS NULL AND w.withdrawn = 0
     ORDER BY w.wave_id DESC LIMIT 1 FOR UPDATE SKIP LOCKED;
    IF wave IS NULL THEN
        INSERT INTO registry.wave DEFAULT VALUES RETURNING wave_id INTO wave;
    END IF;
    RETURN wave;
END
$$;
COMMENT ON FUNCTION registry.wave_of IS 'Counts the ends of a statement. NULL where the bound or an allowance covers them; else the wave that their notifications are held in.';

CREATE OR REPLACE FUNCTION registry.release_wave(wave bigint, why text, at_most integer, who text DEFAULT NULL) RETURNS bigint
LANGUAGE plpgsql SECURITY DEFINER SET search_path = registry, pg_temp
AS $$
DECLARE
    moved bigint;
BEGIN
    UPDATE registry.wave AS w
       SET released_at = coalesce(w.released_at, now()), released_by = coalesce(w.released_by, who, session_user),
           release_reason = coalesce(w.release_reason, why)
     WHERE w.wave_id = wave;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'there is no wave %', wave USING ERRCODE = 'check_violation', HINT = 'report.wave lists them.';
    END IF;
    -- EXECUTE plans for the number of rows that there are now.
    EXECUTE $release$
        WITH gone AS (
            DELETE FROM registry.notification_held AS h
             WHERE (h.messenger_id, h.deadline_at, h.notification_id) IN (
                   SELECT n.messenger_id, n.deadline_at, n.notification_id FROM registry.notification_held AS n
                    WHERE n.wave_id = $1 ORDER BY n.deadline_at LIMIT $2)
            RETURNING h.*
        )
        INSERT INTO registry.notification (messenger_id, generation, deadline_at, notification_id, msisdn, terminated_at, recorded_at, identification_code)
        SELECT g.messenger_id, g.generation, g.deadline_at, g.notification_id, g.msisdn, g.terminated_at, g.recorded_at, g.identification_code
          FROM gone AS g ORDER BY g.messenger_id, g.deadline_at, g.notification_id
    $release$ USING wave, at_most;
    GET DIAGNOSTICS moved = ROW_COUNT;
    UPDATE registry.wave AS w SET released = w.released + moved WHERE w.wave_id = wave;
    RETURN moved;
END
$$;
COMMENT ON FUNCTION registry.release_wave IS 'Releases the next notifications of a held wave, the earliest deadlines first: they are pushed from now on. Returns how many; 0 once all are released. who: the person who does it in the console; NULL: whoever has logged in to the database.';

CREATE OR REPLACE FUNCTION registry.look_back_after_hold() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = registry, pg_temp
AS $$
BEGIN
    UPDATE registry.lane AS l SET look_back_at = now() WHERE NEW.messenger_id IS NULL OR l.messenger_id = NEW.messenger_id;
    RETURN NULL;
END
$$;
COMMENT ON FUNCTION registry.look_back_after_hold IS 'Lets a lane read from its beginning once its hold is over: what came below its mark meanwhile, such as a replay, had nobody to tell.';
