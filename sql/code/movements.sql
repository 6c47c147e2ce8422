-- Movements: instead of letting a report count a whole table (contracts, bindings, events, what is owed, deliveries, attempts), a trigger appends
-- what each statement changed, and the report sums those rows. Appended rows wait for nobody; a single counter would make every writer
-- wait. A job folds the rows together every ten minutes (fold_movements). What retention deletes from a table later stays counted.

CREATE OR REPLACE FUNCTION registry.count_new_contracts() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = registry, pg_temp
AS $$
BEGIN
    EXECUTE $count$
        INSERT INTO registry.contract_movement (day, activated, terminated, ported_out, holder_changed)
        SELECT m.day, sum(m.activated), sum(m.terminated), sum(m.ported_out), sum(m.holder_changed)
          FROM (SELECT (c.started_at AT TIME ZONE 'UTC')::date AS day, 1 AS activated, 0 AS terminated, 0 AS ported_out, 0 AS holder_changed
                  FROM added AS c
                UNION ALL
                SELECT (c.ended_at AT TIME ZONE 'UTC')::date, 0, (c.end_reason = 'terminated')::int, (c.end_reason = 'ported_out')::int,
                       (c.end_reason = 'holder_changed')::int
                  FROM added AS c WHERE c.ended_at IS NOT NULL) AS m
         GROUP BY m.day
    $count$;
    RETURN NULL;
END
$$;
COMMENT ON FUNCTION registry.count_new_contracts IS 'Appends to contract_movement what a statement inserted.';

CREATE OR REPLACE FUNCTION registry.count_bindings() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = registry, pg_temp
AS $$
BEGIN
    -- An ended row cannot be updated (refuse_binding_change), so every ended row of an UPDATE has ended in that UPDATE.
    INSERT INTO registry.binding_movement (messenger_id, recorded, terminated, replaced, removed)
    SELECT c.messenger_id, CASE TG_OP WHEN 'INSERT' THEN count(*) ELSE 0 END, count(*) FILTER (WHERE c.end_reason = 'terminated'),
           count(*) FILTER (WHERE c.end_reason = 'replaced'), count(*) FILTER (WHERE c.end_reason = 'removed')
      FROM changed AS c WHERE TG_OP = 'INSERT' OR c.ended_at IS NOT NULL GROUP BY c.messenger_id;
    RETURN NULL;
END
$$;
COMMENT ON FUNCTION registry.count_bindings IS 'Appends to binding_movement what a statement recorded or ended.';

CREATE OR REPLACE FUNCTION registry.count_notifications() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = registry, pg_temp
AS $$
BEGIN
    INSERT INTO registry.notification_movement (messenger_id, day, due, pending)
    SELECT c.messenger_id, (c.terminated_at AT TIME ZONE 'UTC')::date, date_trunc('minute', c.deadline_at) + interval '1 minute',
           CASE TG_OP WHEN 'INSERT' THEN count(*) ELSE -count(*) END
      FROM changed AS c WHERE NOT c.replayed GROUP BY 1, 2, 3;
    RETURN NULL;
END
$$;
COMMENT ON FUNCTION registry.count_notifications IS 'Appends to notification_movement what a statement wrote or settled.';

CREATE OR REPLACE FUNCTION registry.count_held_notifications() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = registry, pg_temp
AS $$
BEGIN
    INSERT INTO registry.notification_movement (messenger_id, day, due, pending, held)
    SELECT f.messenger_id, f.day, f.due, f.notifications, f.notifications
      FROM (SELECT c.messenger_id, (c.terminated_at AT TIME ZONE 'UTC')::date AS day, date_trunc('minute', c.deadline_at) + interval '1 minute' AS due,
                   CASE TG_OP WHEN 'INSERT' THEN count(*) ELSE -count(*) END AS notifications
              FROM changed AS c GROUP BY 1, 2, 3) AS f;
    RETURN NULL;
END
$$;
COMMENT ON FUNCTION registry.count_held_notifications IS 'Appends to notification_movement what a statement held, or took out of a wave: held notifications are owed as well.';

CREATE OR REPLACE FUNCTION registry.lag_of(recorded_at timestamptz, occurred_at timestamptz) RETURNS interval
LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE
AS $$ SELECT CASE WHEN isfinite(occurred_at) THEN recorded_at - occurred_at ELSE interval '0' END $$;
COMMENT ON FUNCTION registry.lag_of IS 'The time from occurring to being recorded; 0 for a refused event whose date is at the end of the calendar.';

CREATE OR REPLACE FUNCTION registry.count_feed_events() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = registry, pg_temp
AS $$
BEGIN
    INSERT INTO registry.feed_movement (day, type, outcome, events, lag_sum_s, worst_lag)
    SELECT (a.recorded_at AT TIME ZONE 'UTC')::date, a.type, a.outcome, count(*), sum(extract(epoch FROM l.lag)), max(l.lag)
      FROM added AS a, registry.lag_of(a.recorded_at, a.occurred_at) AS l(lag) GROUP BY 1, 2, 3;
    RETURN NULL;
END
$$;
COMMENT ON FUNCTION registry.count_feed_events IS 'Appends to feed_movement what a statement recorded.';

CREATE OR REPLACE FUNCTION registry.count_delivered() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = registry, pg_temp
AS $$
BEGIN
    INSERT INTO registry.delivered_day (day, messenger_id, in_time, late, worst_delay, delivered_on)
    SELECT (a.terminated_at AT TIME ZONE 'UTC')::date, a.messenger_id, count(*) FILTER (WHERE a.delivered_at <= a.deadline_at),
           count(*) FILTER (WHERE a.delivered_at > a.deadline_at), max(a.delivered_at - a.terminated_at),
           (a.delivered_at AT TIME ZONE 'UTC')::date
      FROM added AS a GROUP BY 1, 2, 6;
    RETURN NULL;
END
$$;
COMMENT ON FUNCTION registry.count_delivered IS 'Appends to delivered_day what a statement delivered.';

CREATE OR REPLACE FUNCTION registry.count_attempts() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = registry, pg_temp
AS $$
BEGIN
    INSERT INTO registry.attempt_day (day, messenger_id, outcome, http_status, attempts, notifications, latency_sum_ms, latency_max_ms)
    SELECT (a.attempted_at AT TIME ZONE 'UTC')::date, a.messenger_id, a.outcome, a.http_status, count(*), sum(a.notifications), sum(a.latency_ms),
           max(a.latency_ms)
      FROM added AS a GROUP BY 1, 2, 3, 4;
    RETURN NULL;
END
$$;
COMMENT ON FUNCTION registry.count_attempts IS 'Appends to attempt_day what a statement attempted.';

CREATE OR REPLACE FUNCTION registry.fold_movements() RETURNS boolean
LANGUAGE plpgsql SECURITY DEFINER SET search_path = registry, pg_temp
AS $$
BEGIN
    IF NOT pg_try_advisory_xact_lock(hashtextextended('registry.fold_movements', 0)) THEN
        RETURN false;
    END IF;
    -- Only what this statement sees is deleted and summed, so that a row appended meanwhile stays for the next time.
    WITH folded AS (DELETE FROM registry.binding_movement RETURNING *)
    INSERT INTO registry.binding_movement (messenger_id, recorded, terminated, replaced, removed)
    SELECT f.messenger_id, sum(f.recorded), sum(f.terminated), sum(f.replaced), sum(f.removed) FROM folded AS f GROUP BY f.messenger_id;

    -- There is a row for each minute of the notice period and each messenger, and most have nothing to fold: they are left as they are.
    WITH folded AS (
        DELETE FROM registry.notification_movement AS m
         WHERE m.ctid = ANY (ARRAY(
               SELECT g.ctid FROM (SELECT n.ctid, count(*) OVER same AS rows, sum(n.pending) OVER same AS pending, sum(n.held) OVER same AS held
                                     FROM registry.notification_movement AS n WINDOW same AS (PARTITION BY n.messenger_id, n.day, n.due)) AS g
                WHERE g.rows > 1 OR (g.pending = 0 AND g.held = 0)))
        RETURNING *)
    INSERT INTO registry.notification_movement (messenger_id, day, due, pending, held)
    SELECT f.messenger_id, f.day, f.due, sum(f.pending), sum(f.held) FROM folded AS f GROUP BY 1, 2, 3 HAVING sum(f.pending) <> 0 OR sum(f.held) <> 0;

    -- Years of days gather here, so only days that have something to fold are taken.
    WITH folded AS (
        DELETE FROM registry.contract_movement AS m
         WHERE m.day IN (SELECT d.day FROM registry.contract_movement AS d GROUP BY d.day HAVING count(*) > 1) RETURNING *)
    INSERT INTO registry.contract_movement (day, activated, terminated, ported_out, holder_changed)
    SELECT f.day, sum(f.activated), sum(f.terminated), sum(f.ported_out), sum(f.holder_changed) FROM folded AS f GROUP BY f.day;

    WITH folded AS (
        DELETE FROM registry.feed_movement AS m
         WHERE m.day IN (SELECT d.day FROM registry.feed_movement AS d GROUP BY d.day, d.type, d.outcome HAVING count(*) > 1) RETURNING *)
    INSERT INTO registry.feed_movement (day, type, outcome, events, lag_sum_s, worst_lag)
    SELECT f.day, f.type, f.outcome, sum(f.events), sum(f.lag_sum_s), max(f.worst_lag) FROM folded AS f GROUP BY 1, 2, 3;

    WITH folded AS (
        DELETE FROM registry.delivered_day AS m
         WHERE m.day IN (SELECT d.day FROM registry.delivered_day AS d GROUP BY d.day, d.messenger_id, d.delivered_on HAVING count(*) > 1)
        RETURNING *)
    INSERT INTO registry.delivered_day (day, messenger_id, in_time, late, worst_delay, delivered_on)
    SELECT f.day, f.messenger_id, sum(f.in_time), sum(f.late), max(f.worst_delay), f.delivered_on FROM folded AS f GROUP BY 1, 2, 6;

    WITH folded AS (
        DELETE FROM registry.attempt_day AS m
         WHERE m.day IN (SELECT d.day FROM registry.attempt_day AS d GROUP BY d.day, d.messenger_id, d.outcome, d.http_status HAVING count(*) > 1)
        RETURNING *)
    INSERT INTO registry.attempt_day (day, messenger_id, outcome, http_status, attempts, notifications, latency_sum_ms, latency_max_ms)
    SELECT f.day, f.messenger_id, f.outcome, f.http_status, sum(f.attempts), sum(f.notifications), sum(f.latency_sum_ms), max(f.latency_max_ms)
      FROM folded AS f GROUP BY 1, 2, 3, 4;
    RETURN true;
END
$$;
COMMENT ON FUNCTION registry.fold_movements IS 'Sums the appended rows of the movement tables into few rows, which changes no figure. False where another process is doing it.';

CREATE OR REPLACE FUNCTION registry.delivered_last_hour() RETURNS TABLE (messenger_id integer, delivered bigint)
LANGUAGE plpgsql STABLE SECURITY DEFINER ROWS 100 SET search_path = registry, pg_temp SET jit = off
AS $$
BEGIN
    RETURN QUERY EXECUTE format('SELECT d.messenger_id, count(*) FROM registry.notification_delivered AS d WHERE d.delivered_at > %L GROUP BY 1',
                                now() - interval '1 hour');
END
$$;
COMMENT ON FUNCTION registry.delivered_last_hour IS 'How many notifications each messenger received in the last hour: the pace of report.notification_backlog.';
