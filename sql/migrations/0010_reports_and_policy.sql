-- Reports that cost the same at any volume, a policy whose history stays, and an end to report sessions that go on for too long.
--
-- Movements: where a report would count a whole table (bindings, events, what is owed), a trigger appends what each statement changed, as
-- contract_movement always had it, and the report sums that. Appended rows wait for nobody, where one counter would make every writer
-- wait. The daemon folds them together every ten minutes (fold_movements), so that there are never more than that time brings.
-- What retention deletes from a table later stays counted: reports tell what was, as with days (0005_retention.sql). What there is already
-- is counted here, once, while nobody writes: minutes, for hundreds of millions of bindings.
--
-- Policy: a row that has begun is history. It is not changed, not deleted and not preceded by another, whoever asks: deadlines that were
-- told, and lateness that was judged, go back to it.

CREATE TABLE registry.binding_movement (
    messenger_id integer NOT NULL,
    recorded     bigint NOT NULL,
    terminated   bigint NOT NULL,
    replaced     bigint NOT NULL,
    removed      bigint NOT NULL
);
COMMENT ON TABLE registry.binding_movement IS 'How many bindings each statement recorded and ended: what report.binding_by_messenger sums. Appended by triggers, folded by the daemon.';
COMMENT ON COLUMN registry.binding_movement.messenger_id IS 'Whose bindings.';
COMMENT ON COLUMN registry.binding_movement.recorded IS 'Bindings recorded.';
COMMENT ON COLUMN registry.binding_movement.terminated IS 'Bindings that ended with their contract.';
COMMENT ON COLUMN registry.binding_movement.replaced IS 'Bindings that another code took the place of.';
COMMENT ON COLUMN registry.binding_movement.removed IS 'Bindings that their messenger removed.';

CREATE TABLE registry.notification_movement (
    messenger_id integer NOT NULL,
    day          date NOT NULL,
    due          timestamptz NOT NULL,
    pending      bigint NOT NULL
);
COMMENT ON TABLE registry.notification_movement IS 'How many notifications each statement wrote (+) and settled (-), replayed ones aside: the sum is what is owed, as report.notification_backlog and notification_deadline tell it. Appended by triggers, folded by the daemon.';
COMMENT ON COLUMN registry.notification_movement.messenger_id IS 'Who is owed them.';
COMMENT ON COLUMN registry.notification_movement.day IS 'The day of the contract''s end (UTC).';
COMMENT ON COLUMN registry.notification_movement.due IS 'The end of the minute that their deadline lies in: reports call them overdue from then on.';
COMMENT ON COLUMN registry.notification_movement.pending IS 'Written less settled.';

CREATE TABLE registry.feed_movement (
    day       date NOT NULL,
    type      text NOT NULL,
    outcome   registry.feed_outcome NOT NULL,
    events    bigint NOT NULL,
    lag_sum_s numeric NOT NULL,
    worst_lag interval NOT NULL
);
COMMENT ON TABLE registry.feed_movement IS 'How many of billing''s events each statement recorded, and how late: what report.feed_lag sums. Appended by triggers, folded by the daemon.';
COMMENT ON COLUMN registry.feed_movement.day IS 'The day they were recorded (UTC).';
COMMENT ON COLUMN registry.feed_movement.type IS 'activated, terminated, ported_out, …';
COMMENT ON COLUMN registry.feed_movement.outcome IS 'What became of them.';
COMMENT ON COLUMN registry.feed_movement.events IS 'How many there were.';
COMMENT ON COLUMN registry.feed_movement.lag_sum_s IS 'The sum of their times from occurring to being recorded, in seconds: an interval would overflow over events with a date that is wrong.';
COMMENT ON COLUMN registry.feed_movement.worst_lag IS 'The longest of them.';

CREATE FUNCTION registry.count_bindings() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = registry, pg_temp
AS $$
BEGIN
    -- An ended row cannot be updated (refuse_binding_change), so every ended row of an UPDATE ended in it.
    INSERT INTO registry.binding_movement (messenger_id, recorded, terminated, replaced, removed)
    SELECT c.messenger_id, CASE TG_OP WHEN 'INSERT' THEN count(*) ELSE 0 END, count(*) FILTER (WHERE c.end_reason = 'terminated'),
           count(*) FILTER (WHERE c.end_reason = 'replaced'), count(*) FILTER (WHERE c.end_reason = 'removed')
      FROM changed AS c WHERE TG_OP = 'INSERT' OR c.ended_at IS NOT NULL GROUP BY c.messenger_id;
    RETURN NULL;
END
$$;
COMMENT ON FUNCTION registry.count_bindings IS 'Appends to binding_movement what a statement recorded or ended.';
CREATE TRIGGER count_recorded_bindings AFTER INSERT ON registry.binding
    REFERENCING NEW TABLE AS changed FOR EACH STATEMENT EXECUTE FUNCTION registry.count_bindings();
CREATE TRIGGER count_ended_bindings AFTER UPDATE ON registry.binding
    REFERENCING NEW TABLE AS changed FOR EACH STATEMENT EXECUTE FUNCTION registry.count_bindings();

CREATE FUNCTION registry.count_notifications() RETURNS trigger
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
CREATE TRIGGER count_owed_notifications AFTER INSERT ON registry.notification
    REFERENCING NEW TABLE AS changed FOR EACH STATEMENT EXECUTE FUNCTION registry.count_notifications();
CREATE TRIGGER count_settled_notifications AFTER DELETE ON registry.notification
    REFERENCING OLD TABLE AS changed FOR EACH STATEMENT EXECUTE FUNCTION registry.count_notifications();

CREATE FUNCTION registry.lag_of(recorded_at timestamptz, occurred_at timestamptz) RETURNS interval
LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE
AS $$ SELECT CASE WHEN isfinite(occurred_at) THEN recorded_at - occurred_at ELSE interval '0' END $$;
COMMENT ON FUNCTION registry.lag_of IS 'From occurring to being recorded; 0 for an event at the end of the calendar, which was refused.';

CREATE FUNCTION registry.count_feed_events() RETURNS trigger
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
CREATE TRIGGER count_feed_events AFTER INSERT ON registry.feed_event
    REFERENCING NEW TABLE AS added FOR EACH STATEMENT EXECUTE FUNCTION registry.count_feed_events();

-- What is there already.
INSERT INTO registry.binding_movement (messenger_id, recorded, terminated, replaced, removed)
SELECT b.messenger_id, count(*), count(*) FILTER (WHERE b.end_reason = 'terminated'), count(*) FILTER (WHERE b.end_reason = 'replaced'),
       count(*) FILTER (WHERE b.end_reason = 'removed')
  FROM registry.binding AS b GROUP BY b.messenger_id;
INSERT INTO registry.notification_movement (messenger_id, day, due, pending)
SELECT n.messenger_id, (n.terminated_at AT TIME ZONE 'UTC')::date, date_trunc('minute', n.deadline_at) + interval '1 minute', count(*)
  FROM registry.notification AS n WHERE NOT n.replayed GROUP BY 1, 2, 3;
INSERT INTO registry.feed_movement (day, type, outcome, events, lag_sum_s, worst_lag)
SELECT (e.recorded_at AT TIME ZONE 'UTC')::date, e.type, e.outcome, count(*), sum(extract(epoch FROM l.lag)), max(l.lag)
  FROM registry.feed_event AS e, registry.lag_of(e.recorded_at, e.occurred_at) AS l(lag) GROUP BY 1, 2, 3;

CREATE FUNCTION registry.fold_movements() RETURNS boolean
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

    WITH folded AS (DELETE FROM registry.notification_movement RETURNING *)
    INSERT INTO registry.notification_movement (messenger_id, day, due, pending)
    SELECT f.messenger_id, f.day, f.due, sum(f.pending) FROM folded AS f GROUP BY 1, 2, 3 HAVING sum(f.pending) <> 0;

    -- Of days, years of them gather: only those that have something to fold.
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
    RETURN true;
END
$$;
COMMENT ON FUNCTION registry.fold_movements IS 'Sums the appended rows of the movement tables into few: no figure changes. False where somebody else is at it.';

-- Open days of a million rows: with sorting off the planner, which has to sort three groups all the same, sorted a million rows and left
-- parallel workers alone (840 ms; 350 ms so).
ALTER FUNCTION registry.open_delivered() RESET enable_sort;
ALTER FUNCTION registry.open_attempts() RESET enable_sort;

-- ---------------------------------------------------------------------------------------------------------------------------------
-- The law's history stays

ALTER TABLE registry.policy
    ADD COLUMN recorded_at timestamptz NOT NULL DEFAULT now(),
    ADD COLUMN recorded_by text NOT NULL DEFAULT session_user;
COMMENT ON COLUMN registry.policy.recorded_at IS 'When the row was written; set by the database.';
COMMENT ON COLUMN registry.policy.recorded_by IS 'Which database user wrote it; set by the database.';

CREATE FUNCTION registry.keep_policy_history() RETURNS trigger
LANGUAGE plpgsql
AS $$
BEGIN
    IF TG_OP <> 'INSERT' AND OLD.effective_from <= now() THEN
        RAISE EXCEPTION 'a policy that has begun is history and stays as it is'
            USING ERRCODE = 'restrict_violation',
                  HINT = 'Add one that takes its place: SELECT registry.change_policy(''{"notice_within": "12 hours"}'', now(), ''why'').';
    END IF;
    IF TG_OP = 'DELETE' THEN
        RETURN OLD;
    END IF;
    IF NEW.effective_from < now() THEN
        RAISE EXCEPTION 'a policy begins now or later, never in the past'
            USING ERRCODE = 'restrict_violation',
                  HINT = 'What was answered and notified until now was so under the policies of the time. Set effective_from to now() or later.';
    END IF;
    NEW.recorded_at := clock_timestamp();
    NEW.recorded_by := session_user;
    RETURN NEW;
END
$$;
COMMENT ON FUNCTION registry.keep_policy_history IS 'Deadlines were told and lateness was judged by the policies of the time: a row that has begun is not changed, deleted or preceded by another. One that is planned may be.';
CREATE TRIGGER keep_policy_history BEFORE INSERT OR UPDATE OR DELETE ON registry.policy
    FOR EACH ROW EXECUTE FUNCTION registry.keep_policy_history();
CREATE TRIGGER refuse_truncate BEFORE TRUNCATE ON registry.policy FOR EACH STATEMENT EXECUTE FUNCTION registry.refuse_truncate();

CREATE FUNCTION registry.change_policy(changes jsonb, effective_from timestamptz, note text) RETURNS SETOF registry.policy
LANGUAGE plpgsql SET search_path = registry, pg_temp
AS $$
DECLARE
    settable text[] := ARRAY(
        SELECT a.attname::text FROM pg_catalog.pg_attribute AS a
         WHERE a.attrelid = 'registry.policy'::regclass AND a.attnum > 0 AND NOT a.attisdropped
           AND a.attname NOT IN ('effective_from', 'note', 'recorded_at', 'recorded_by') ORDER BY a.attnum);
    unknown text;
BEGIN
    SELECT k.key INTO unknown FROM jsonb_object_keys(changes) AS k(key) WHERE k.key <> ALL (settable) ORDER BY k.key LIMIT 1;
    IF FOUND THEN
        RAISE EXCEPTION 'the policy has no %', unknown
            USING ERRCODE = 'undefined_column', HINT = format('It has %s.', array_to_string(settable, ', '));
    END IF;
    RETURN QUERY
    INSERT INTO registry.policy
    SELECT n.*
      FROM registry.policy_in_force(change_policy.effective_from) AS p,
           jsonb_populate_record(p, changes || jsonb_build_object('effective_from', change_policy.effective_from, 'note', change_policy.note)) AS n
    RETURNING *;
END
$$;
COMMENT ON FUNCTION registry.change_policy IS 'Adds the policy in force from a time on: what `changes` names (column: value), and the rest of the policy that would be in force then. Returns the new row.';

-- ---------------------------------------------------------------------------------------------------------------------------------
-- A report does not go on for ever

CREATE FUNCTION registry.end_long_reports(longest interval) RETURNS bigint
LANGUAGE sql VOLATILE SECURITY DEFINER SET search_path = registry, pg_temp
AS $$
    SELECT count(*) FILTER (WHERE pg_terminate_backend(a.pid))
      FROM pg_catalog.pg_stat_activity AS a
     WHERE a.usename = 'registryd_report'
       AND (a.xact_start < clock_timestamp() - longest
            OR EXISTS (SELECT FROM pg_catalog.pg_locks AS l WHERE l.pid = a.pid AND l.locktype = 'advisory'))
$$;
COMMENT ON FUNCTION registry.end_long_reports IS 'Ends the sessions of registryd_report whose transaction goes on for longer, or that hold an advisory lock, which the daemon''s housekeeping might wait for: a role may set its own statement_timeout off. Returns how many.';

REVOKE ALL ON FUNCTION registry.count_bindings, registry.count_notifications, registry.count_feed_events, registry.lag_of, registry.fold_movements,
    registry.keep_policy_history, registry.change_policy, registry.end_long_reports FROM PUBLIC;
GRANT EXECUTE ON FUNCTION registry.fold_movements, registry.end_long_reports TO registryd_app;
