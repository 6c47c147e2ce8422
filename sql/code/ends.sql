-- The ends of contracts, of the bindings on them, and what is owed for them. No path can get around these rules.
--
-- A contract ends when somebody sets ended_at: the event API, an import, or a DBA in psql. In that same statement its bindings end and
-- one notification is written for each (notify_messengers_of_ends). The work is done once a statement, from the transition
-- table, so that a million ends are one statement too. EXECUTE plans it anew for each statement, because a plan that PL/pgSQL keeps from a
-- statement of one row takes quadratic time for a million.
--
-- A statement whose ends go beyond the bound of an hour (waves.sql) is a mistake until a person says otherwise: its notifications are written as
-- held, and nobody is told.
--
-- No binding can slip in while its contract ends: it is written only under a share lock that keeps the contract from ending
-- (guard_new_bindings). An end that comes meanwhile waits and then sees the binding. This needs READ COMMITTED, where each statement sees what
-- was committed before it, so ends under a stricter isolation are refused.
--
-- Every refusal says what to do, and none quotes a number.

CREATE OR REPLACE FUNCTION registry.refuse_reopening() RETURNS trigger
LANGUAGE plpgsql
AS $$
BEGIN
    RAISE EXCEPTION 'this contract has ended, and ended is final (generation %)', OLD.generation
        USING ERRCODE = 'restrict_violation',
              HINT = 'Insert a contract of the next generation instead: the messengers have been notified that this one ended.';
END
$$;
COMMENT ON FUNCTION registry.refuse_reopening IS 'Refuses to change an ended contract: a subscriber who comes back gets the next generation.';

CREATE OR REPLACE FUNCTION registry.complete_end() RETURNS trigger
LANGUAGE plpgsql
AS $$
BEGIN
    NEW.ended_at := coalesce(NEW.ended_at, greatest(now(), NEW.started_at));
    NEW.status := 'ended';
    NEW.end_reason := coalesce(NEW.end_reason, 'terminated');
    IF NEW.ended_at < NEW.started_at THEN
        RAISE EXCEPTION 'ended_at lies before started_at'
            USING ERRCODE = 'check_violation', HINT = 'A contract ends after it has started: set ended_at to when it ended.';
    END IF;
    IF NEW.ended_at > clock_timestamp() + interval '5 minutes' THEN
        RAISE EXCEPTION 'ended_at lies in the future'
            USING ERRCODE = 'check_violation', HINT = 'A contract ends when it has ended: set ended_at then. It takes effect at once.';
    END IF;
    RETURN NEW;
END
$$;
COMMENT ON FUNCTION registry.complete_end IS 'Fills in the rest of an end. Setting ended_at, or status, is enough to end a contract.';

CREATE OR REPLACE FUNCTION registry.notify_messengers_of_ends() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = registry, pg_temp
AS $$
DECLARE
    ending  bigint;
    wave    bigint;
    written bigint;
BEGIN
    -- An ended row cannot be updated (refuse_reopening), so every ended row here ended in this very statement.
    IF NOT EXISTS (SELECT FROM changed WHERE ended_at IS NOT NULL) THEN
        RETURN NULL;
    END IF;
    IF current_setting('transaction_isolation') <> 'read committed' THEN
        RAISE EXCEPTION 'contracts are ended in READ COMMITTED transactions only'
            USING ERRCODE = 'invalid_transaction_state',
                  HINT = 'A stricter isolation would not see a binding that was recorded meanwhile, and its messenger would never be notified.';
    END IF;
    EXECUTE 'SELECT count(*) FROM changed WHERE ended_at IS NOT NULL' INTO ending;
    wave := registry.wave_of(ending);
    -- Without a wave the last two %s are nothing.
    EXECUTE format($fan_out$
        WITH ended AS (
            UPDATE registry.binding AS b
               SET ended_at = greatest(c.ended_at, b.bound_at), end_reason = 'terminated'
              FROM changed AS c
             WHERE c.ended_at IS NOT NULL
               AND b.msisdn = c.msisdn AND b.generation = c.generation AND b.ended_at IS NULL
            RETURNING b.messenger_id, b.generation, b.msisdn, b.identification_code, c.ended_at AS terminated_at
        ), owed AS (
            SELECT e.*, date_trunc('milliseconds', e.terminated_at + coalesce(
                       (SELECT p.notice_within FROM registry.policy_in_force(e.terminated_at) AS p), interval '24 hours')) AS deadline_at
              FROM ended AS e
        )
        INSERT INTO registry.%s (messenger_id, generation, deadline_at, notification_id, msisdn, terminated_at, identification_code%s)
        SELECT o.messenger_id, o.generation, o.deadline_at, registry.id_at(o.deadline_at), o.msisdn, o.terminated_at, o.identification_code%s
          FROM owed AS o
    $fan_out$, CASE WHEN wave IS NULL THEN 'notification' ELSE 'notification_held' END, CASE WHEN wave IS NOT NULL THEN ', wave_id' END, ', ' || wave);
    IF wave IS NOT NULL THEN
        GET DIAGNOSTICS written = ROW_COUNT;
        UPDATE registry.wave AS w SET ends = w.ends + ending, notifications = w.notifications + written, last_at = now()
         WHERE w.wave_id = wave;
    END IF;
    EXECUTE $count$
        INSERT INTO registry.contract_movement (day, terminated, ported_out, holder_changed)
        SELECT (c.ended_at AT TIME ZONE 'UTC')::date, count(*) FILTER (WHERE c.end_reason = 'terminated'),
               count(*) FILTER (WHERE c.end_reason = 'ported_out'), count(*) FILTER (WHERE c.end_reason = 'holder_changed')
          FROM changed AS c WHERE c.ended_at IS NOT NULL GROUP BY 1
    $count$;
    RETURN NULL;
END
$$;
COMMENT ON FUNCTION registry.notify_messengers_of_ends IS 'Decree 1801 of 2021: whatever path ends a contract, its bindings end and a notification is owed for each, in the same transaction. Those of a wave beyond the bound are held.';

CREATE OR REPLACE FUNCTION registry.wake_delivery() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = registry, pg_temp
AS $$
BEGIN
    -- One NOTIFY for each messenger and transaction, however many statements that has: PostgreSQL drops repeated ones. It says where
    -- something came below the mark of the messenger's lane, which then looks back.
    PERFORM pg_notify('registry_deliver', l.messenger_id || CASE WHEN earliest.deadline_at <= registry.time_of(l.low_water) THEN ' below' ELSE '' END)
       FROM (SELECT a.messenger_id, min(a.deadline_at) AS deadline_at FROM added AS a GROUP BY a.messenger_id) AS earliest
       JOIN registry.lane AS l USING (messenger_id);
    RETURN NULL;
END
$$;
COMMENT ON FUNCTION registry.wake_delivery IS 'Tells deliver processes, at commit, to whom something new is owed. They poll as well, so that a NOTIFY that is missed costs half a second.';
