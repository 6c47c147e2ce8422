-- How long evidence stays: a day is closed, and when the policy says that it is over it goes.
--
-- Three families of tables are partitioned by day (UTC): journal_page, notification_delivered and delivery_attempt. Of each day of each:
--
--   open     its rows are counted by the reports as they stand
--   closed   an hour after its end (close_day): its figures are added to presence_day, delivered_day or attempt_day, where the reports
--            read them from then on, however many rows there were. A row that comes later adds its own figures by a trigger that only
--            closed partitions have, so that the figures stay exact and no other row pays for it
--   dropped  when the policy in force keeps it no longer (drop_day); its figures stay
--
-- A day's figures change places in one transaction, so no report loses a day or counts it twice. A row that no partition takes lies in
-- the default partition; it is counted as it stands wherever its day is. Nobody but the owner can remove a row, and the daemon only asks:
-- both functions take no day from their caller, and drop_day reads policy and clock itself, so that nobody who has the daemon's
-- role can make evidence vanish before its time.
--
-- Dropping needs an ACCESS EXCLUSIVE lock on the whole family, for milliseconds: DETACH CONCURRENTLY, which does not, is refused by
-- PostgreSQL where there is a default partition. drop_day therefore waits 50 ms for it at most, so that no query waits longer, and tries again.

CREATE TABLE registry.retention (
    family         text COLLATE "C" PRIMARY KEY CHECK (family IN ('journal_page', 'notification_delivered', 'delivery_attempt')),
    key            text NOT NULL,
    closed_through date NOT NULL
);
COMMENT ON TABLE registry.retention IS 'How far the days of each partitioned table are closed: one row each, moved on by registry.close_day.';
COMMENT ON COLUMN registry.retention.family IS 'The partitioned table.';
COMMENT ON COLUMN registry.retention.key IS 'The column it is partitioned by: a time, or page_id, which begins with one.';
COMMENT ON COLUMN registry.retention.closed_through IS 'The last closed day (UTC): the figures of its rows and of those before it stand in the tables of figures.';

CREATE TABLE registry.presence_day (
    day           date NOT NULL,
    messenger_id  integer NOT NULL,
    queries       bigint NOT NULL,
    present_count bigint NOT NULL,
    in_time       bigint NOT NULL,
    late          bigint NOT NULL,
    worst_wait    interval NOT NULL,
    allowed       interval,
    PRIMARY KEY (day, messenger_id)
);
COMMENT ON TABLE registry.presence_day IS 'The journal''s figures of closed days: what report.presence_daily and report.answer_deadline keep when the pages are gone.';
COMMENT ON COLUMN registry.presence_day.day IS 'The day of receipt (UTC).';
COMMENT ON COLUMN registry.presence_day.messenger_id IS 'Who asked.';
COMMENT ON COLUMN registry.presence_day.queries IS 'Presence queries.';
COMMENT ON COLUMN registry.presence_day.present_count IS 'How many were answered present.';
COMMENT ON COLUMN registry.presence_day.in_time IS 'How many were answered within the policy''s time, by the policy in force at their receipt (Decree 1801 of 2021).';
COMMENT ON COLUMN registry.presence_day.late IS 'How many were not. Received before any policy, a query is neither.';
COMMENT ON COLUMN registry.presence_day.worst_wait IS 'The longest time from receipt to answer.';
COMMENT ON COLUMN registry.presence_day.allowed IS 'The time that the policy gave.';

CREATE TABLE registry.delivered_day (
    day          date NOT NULL,
    messenger_id integer NOT NULL,
    in_time      bigint NOT NULL,
    late         bigint NOT NULL,
    worst_delay  interval NOT NULL,
    PRIMARY KEY (day, messenger_id)
);
COMMENT ON TABLE registry.delivered_day IS 'Delivered notifications'' figures of closed days: what report.notification_deadline keeps when their rows are gone.';
COMMENT ON COLUMN registry.delivered_day.day IS 'The day of the contract''s end (UTC).';
COMMENT ON COLUMN registry.delivered_day.messenger_id IS 'Who was notified.';
COMMENT ON COLUMN registry.delivered_day.in_time IS 'Notifications delivered by their deadline (Decree 1801 of 2021).';
COMMENT ON COLUMN registry.delivered_day.late IS 'Notifications delivered after it.';
COMMENT ON COLUMN registry.delivered_day.worst_delay IS 'The longest time from the end to the delivery.';

CREATE TABLE registry.attempt_day (
    day            date NOT NULL,
    messenger_id   integer NOT NULL,
    outcome        registry.delivery_outcome NOT NULL,
    http_status    smallint,
    attempts       bigint NOT NULL,
    notifications  bigint NOT NULL,
    latency_sum_ms bigint NOT NULL,
    latency_max_ms integer NOT NULL,
    UNIQUE NULLS NOT DISTINCT (day, messenger_id, outcome, http_status)
);
COMMENT ON TABLE registry.attempt_day IS 'Delivery attempts'' figures of closed days: what report.delivery_attempt_daily keeps when their rows are gone.';
COMMENT ON COLUMN registry.attempt_day.day IS 'The day of the attempt (UTC).';
COMMENT ON COLUMN registry.attempt_day.messenger_id IS 'To whom.';
COMMENT ON COLUMN registry.attempt_day.outcome IS 'acknowledged, rejected or failed.';
COMMENT ON COLUMN registry.attempt_day.http_status IS 'The answer''s status; NULL where none came.';
COMMENT ON COLUMN registry.attempt_day.attempts IS 'Pushes.';
COMMENT ON COLUMN registry.attempt_day.notifications IS 'Notifications they carried.';
COMMENT ON COLUMN registry.attempt_day.latency_sum_ms IS 'Their latencies'' sum, in milliseconds.';
COMMENT ON COLUMN registry.attempt_day.latency_max_ms IS 'The longest latency, in milliseconds.';

-- ---------------------------------------------------------------------------------------------------------------------------------
-- What is there

CREATE VIEW registry.day_partition AS
SELECT parent.relname::text AS family, to_date(right(part.relname, 8), 'YYYYMMDD') AS day, part.oid::regclass AS partition
  FROM pg_catalog.pg_inherits AS i
  JOIN pg_catalog.pg_class AS parent ON parent.oid = i.inhparent
  JOIN pg_catalog.pg_class AS part ON part.oid = i.inhrelid
 WHERE parent.relnamespace = 'registry'::regnamespace AND parent.relkind = 'p' AND part.relname ~ '_[0-9]{8}$';
COMMENT ON VIEW registry.day_partition IS 'The daily partitions there are.';
COMMENT ON COLUMN registry.day_partition.family IS 'The partitioned table.';
COMMENT ON COLUMN registry.day_partition.day IS 'The day (UTC).';
COMMENT ON COLUMN registry.day_partition.partition IS 'Its partition.';

CREATE FUNCTION registry.first_key_of(key text, day date) RETURNS text
LANGUAGE sql IMMUTABLE
AS $$ SELECT CASE key WHEN 'page_id' THEN registry.first_id_of(day)::text ELSE to_char(day, 'YYYY-MM-DD') || ' 00:00+00' END $$;
COMMENT ON FUNCTION registry.first_key_of IS 'Where a day''s partition begins, as the text of a value of its key.';

CREATE FUNCTION registry.kept_from(family text) RETURNS date
LANGUAGE sql STABLE SET timezone = 'UTC'
AS $$
    SELECT (now() - CASE family WHEN 'journal_page' THEN p.journal_kept ELSE p.notification_kept END)::date
      FROM registry.policy_in_force(now()) AS p
$$;
COMMENT ON FUNCTION registry.kept_from IS 'The first day that the policy in force still keeps of a partitioned table, in part at least; NULL where no policy is in force, so that nothing goes.';

-- ---------------------------------------------------------------------------------------------------------------------------------
-- Figures: one text of each, for days that are closed and for those that are open

CREATE FUNCTION registry.figures(family text) RETURNS text
LANGUAGE sql IMMUTABLE
AS $$
    SELECT CASE family
        WHEN 'journal_page' THEN $pages$
            SELECT (e.received_at AT TIME ZONE 'UTC')::date AS day, e.messenger_id, sum(e.queries), sum(e.present_count),
                   coalesce(sum(e.queries) FILTER (WHERE e.answered_at - e.received_at <= law.answer_within), 0),
                   coalesce(sum(e.queries) FILTER (WHERE e.answered_at - e.received_at > law.answer_within), 0),
                   max(e.answered_at - e.received_at), max(law.answer_within)
              FROM entry AS e
              LEFT JOIN (SELECT p.answer_within, p.effective_from,
                                coalesce(lead(p.effective_from) OVER (ORDER BY p.effective_from), 'infinity') AS superseded_at
                           FROM registry.policy AS p) AS law ON e.received_at >= law.effective_from AND e.received_at < law.superseded_at
             GROUP BY 1, 2 ORDER BY 1, 2
        $pages$
        WHEN 'notification_delivered' THEN $delivered$
            SELECT (e.terminated_at AT TIME ZONE 'UTC')::date AS day, e.messenger_id, count(*) FILTER (WHERE e.delivered_at <= e.deadline_at),
                   count(*) FILTER (WHERE e.delivered_at > e.deadline_at), max(e.delivered_at - e.terminated_at)
              FROM entry AS e
             GROUP BY 1, 2 ORDER BY 1, 2
        $delivered$
        WHEN 'delivery_attempt' THEN $attempts$
            SELECT (e.attempted_at AT TIME ZONE 'UTC')::date AS day, e.messenger_id, e.outcome, e.http_status, count(*), sum(e.notifications),
                   sum(e.latency_ms), max(e.latency_ms)
              FROM entry AS e
             GROUP BY 1, 2, 3, 4 ORDER BY 1, 2, 3, 4
        $attempts$
    END
$$;
COMMENT ON FUNCTION registry.figures IS 'The SELECT that makes figures, in the order of their table''s columns, of the rows of `entry`.';

CREATE FUNCTION registry.counting(family text, entries text) RETURNS text
LANGUAGE sql IMMUTABLE
AS $$
    SELECT format('WITH entry AS (%s) INSERT INTO registry.%s', entries, CASE family
        WHEN 'journal_page' THEN 'presence_day AS kept' || registry.figures(family) || $pages$
                ON CONFLICT (day, messenger_id) DO UPDATE
               SET queries = kept.queries + excluded.queries, present_count = kept.present_count + excluded.present_count,
                   in_time = kept.in_time + excluded.in_time, late = kept.late + excluded.late,
                   worst_wait = greatest(kept.worst_wait, excluded.worst_wait), allowed = greatest(kept.allowed, excluded.allowed)
        $pages$
        WHEN 'notification_delivered' THEN 'delivered_day AS kept' || registry.figures(family) || $delivered$
                ON CONFLICT (day, messenger_id) DO UPDATE
               SET in_time = kept.in_time + excluded.in_time, late = kept.late + excluded.late,
                   worst_delay = greatest(kept.worst_delay, excluded.worst_delay)
        $delivered$
        WHEN 'delivery_attempt' THEN 'attempt_day AS kept' || registry.figures(family) || $attempts$
                ON CONFLICT (day, messenger_id, outcome, http_status) DO UPDATE
               SET attempts = kept.attempts + excluded.attempts, notifications = kept.notifications + excluded.notifications,
                   latency_sum_ms = kept.latency_sum_ms + excluded.latency_sum_ms,
                   latency_max_ms = greatest(kept.latency_max_ms, excluded.latency_max_ms)
        $attempts$
    END)
$$;
COMMENT ON FUNCTION registry.counting IS 'The statement that adds entries of a partitioned table (the text of a SELECT or DELETE RETURNING) to its figures.';

CREATE FUNCTION registry.counting_open(family text) RETURNS text
LANGUAGE sql STABLE
AS $$
    SELECT format('WITH entry AS (SELECT * FROM registry.%1$I WHERE %2$I >= %4$L UNION ALL SELECT * FROM registry.%3$I WHERE %2$I < %4$L) %5$s',
                  r.family, r.key, r.family || '_default', registry.first_key_of(r.key, r.closed_through + 1), registry.figures(r.family))
      FROM registry.retention AS r WHERE r.family = counting_open.family
$$;
COMMENT ON FUNCTION registry.counting_open IS 'The statement that makes figures of what no table of figures counts: open days, and what lies in the default partition.';

-- The reports' other half. Planned for the day they begin at (EXECUTE): a view that named the partitioned table would plan, lock and,
-- with JIT, compile a scan of every closed day before it left it out.

CREATE FUNCTION registry.open_presence() RETURNS SETOF registry.presence_day
LANGUAGE plpgsql STABLE SECURITY DEFINER ROWS 100 SET search_path = registry, pg_temp SET enable_sort = off SET jit = off
AS $$ BEGIN RETURN QUERY EXECUTE registry.counting_open('journal_page'); END $$;
COMMENT ON FUNCTION registry.open_presence IS 'The figures of presence_day for pages that it does not count.';

CREATE FUNCTION registry.open_delivered() RETURNS SETOF registry.delivered_day
LANGUAGE plpgsql STABLE SECURITY DEFINER ROWS 100 SET search_path = registry, pg_temp SET enable_sort = off SET jit = off
AS $$ BEGIN RETURN QUERY EXECUTE registry.counting_open('notification_delivered'); END $$;
COMMENT ON FUNCTION registry.open_delivered IS 'The figures of delivered_day for deliveries that it does not count.';

CREATE FUNCTION registry.open_attempts() RETURNS SETOF registry.attempt_day
LANGUAGE plpgsql STABLE SECURITY DEFINER ROWS 100 SET search_path = registry, pg_temp SET enable_sort = off SET jit = off
AS $$ BEGIN RETURN QUERY EXECUTE registry.counting_open('delivery_attempt'); END $$;
COMMENT ON FUNCTION registry.open_attempts IS 'The figures of attempt_day for attempts that it does not count.';

CREATE FUNCTION registry.delivered_last_hour() RETURNS TABLE (messenger_id integer, delivered bigint)
LANGUAGE plpgsql STABLE SECURITY DEFINER ROWS 100 SET search_path = registry, pg_temp SET jit = off
AS $$
BEGIN
    RETURN QUERY EXECUTE format('SELECT d.messenger_id, count(*) FROM registry.notification_delivered AS d WHERE d.delivered_at > %L GROUP BY 1',
                                now() - interval '1 hour');
END
$$;
COMMENT ON FUNCTION registry.delivered_last_hour IS 'How many notifications each messenger received in the last hour: the pace of report.notification_backlog.';

-- ---------------------------------------------------------------------------------------------------------------------------------
-- Closing and dropping

CREATE FUNCTION registry.count_late_entry() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = registry, pg_temp
AS $$
BEGIN
    EXECUTE registry.counting(TG_ARGV[0], 'SELECT ($1).*') USING NEW;
    RETURN NULL;
END
$$;
COMMENT ON FUNCTION registry.count_late_entry IS 'A row that reaches a closed partition adds its own figures.';

CREATE FUNCTION registry.close_day(family text) RETURNS date
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = registry, pg_temp SET timezone = 'UTC' SET lock_timeout = '3s' SET enable_seqscan = on SET enable_sort = off SET jit = off
AS $$
DECLARE
    ended date;
    part text;
BEGIN
    IF current_setting('transaction_isolation') <> 'read committed' THEN
        RAISE EXCEPTION 'days are closed in READ COMMITTED transactions only'
            USING ERRCODE = 'invalid_transaction_state', HINT = 'A stricter isolation would not count what was committed while it waited.';
    END IF;
    IF NOT pg_try_advisory_xact_lock(hashtextextended('registry.retention', 0)) THEN
        RETURN NULL;
    END IF;
    SELECT r.closed_through + 1 INTO ended FROM registry.retention AS r WHERE r.family = close_day.family;
    IF ended IS NULL OR now() < ended + interval '1 day 1 hour' THEN
        RETURN NULL;
    END IF;
    part := family || to_char(ended, '_YYYYMMDD');
    IF to_regclass(format('registry.%I', part)) IS NULL THEN
        -- Not made ahead: what there is of the day lies in the default partition.
        PERFORM registry.make_partitions(ended, 1);
    END IF;
    -- Nobody writes the day meanwhile: a row is counted here or by the trigger, never by both or neither. The wait is long enough for an
    -- autovacuum to give way.
    BEGIN
        EXECUTE format('LOCK TABLE registry.%I IN SHARE ROW EXCLUSIVE MODE', part);
    EXCEPTION WHEN lock_not_available THEN
        RETURN NULL;
    END;
    EXECUTE registry.counting(family, format('SELECT * FROM registry.%I', part));
    EXECUTE format('CREATE TRIGGER count_late_entry AFTER INSERT ON registry.%I FOR EACH ROW EXECUTE FUNCTION registry.count_late_entry(%L)',
                   part, family);
    UPDATE registry.retention AS r SET closed_through = ended WHERE r.family = close_day.family;
    RETURN ended;
END
$$;
COMMENT ON FUNCTION registry.close_day IS 'Closes the next day of a partitioned table that has been over for an hour and returns it; NULL where there is none, or where somebody else is at it: then ask again later.';

CREATE FUNCTION registry.drop_day(family text) RETURNS date
LANGUAGE plpgsql SECURITY DEFINER SET search_path = registry, pg_temp SET timezone = 'UTC' SET lock_timeout = '50ms'
AS $$
DECLARE
    over date := registry.kept_from(family);
    kept registry.retention;
    gone registry.day_partition;
BEGIN
    SELECT r.* INTO kept FROM registry.retention AS r WHERE r.family = drop_day.family;
    IF NOT FOUND OR over IS NULL OR NOT pg_try_advisory_xact_lock(hashtextextended('registry.retention', 0)) THEN
        RETURN NULL;
    END IF;
    -- What lies in the default partition goes as a day does, with its figures kept.
    EXECUTE registry.counting(family, format('DELETE FROM registry.%I WHERE %I < %L RETURNING *', family || '_default', kept.key,
                                             registry.first_key_of(kept.key, over)));
    SELECT p.* INTO gone FROM registry.day_partition AS p
     WHERE p.family = drop_day.family AND p.day < over AND p.day <= kept.closed_through
     ORDER BY p.day LIMIT 1;
    IF NOT FOUND THEN
        RETURN NULL;
    END IF;
    FOR attempt IN 1..8 LOOP
        BEGIN
            -- The partition first, which no query needs: the family is then locked for no longer than the drop itself takes.
            EXECUTE format('LOCK TABLE %s IN ACCESS EXCLUSIVE MODE', gone.partition);
            EXECUTE format('DROP TABLE %s', gone.partition);
            RETURN gone.day;
        EXCEPTION WHEN lock_not_available THEN
            PERFORM pg_sleep(0.1 + 0.2 * random());
        END;
    END LOOP;
    RETURN NULL;
END
$$;
COMMENT ON FUNCTION registry.drop_day IS 'Drops the oldest closed day of a partitioned table that the policy in force no longer keeps and returns it; NULL where there is none, where somebody else is at it, or where the table was too busy: then ask again later.';

CREATE FUNCTION registry.retention_state() RETURNS TABLE (family text, unplaced_rows bigint, days_over bigint)
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = registry, pg_temp
AS $$
    SELECT r.family,
           CASE r.family WHEN 'journal_page' THEN (SELECT count(*) FROM (SELECT FROM registry.journal_page_default LIMIT 100000) AS s)
                         WHEN 'notification_delivered' THEN (SELECT count(*) FROM (SELECT FROM registry.notification_delivered_default LIMIT 100000) AS s)
                         ELSE (SELECT count(*) FROM (SELECT FROM registry.delivery_attempt_default LIMIT 100000) AS s) END,
           (SELECT count(*) FROM registry.day_partition AS p WHERE p.family = r.family AND p.day < registry.kept_from(r.family))
      FROM registry.retention AS r
$$;
COMMENT ON FUNCTION registry.retention_state IS 'What should be zero, by partitioned table: rows in the default partition (counted to 100,000), and days still there that the policy no longer keeps.';

-- As before, but for closed days, whose rows would no longer be counted.
CREATE OR REPLACE FUNCTION registry.make_partitions(first_day date, days integer) RETURNS integer
LANGUAGE plpgsql SECURITY DEFINER SET search_path = registry, pg_temp SET timezone = 'UTC' SET lock_timeout = '2s'
AS $$
DECLARE
    family record;
    day    date;
    made   integer := 0;
BEGIN
    -- One at a time: workers race here.
    PERFORM pg_advisory_xact_lock(hashtextextended('registry.make_partitions', 0));
    FOR family IN SELECT r.family AS name, r.key, r.closed_through FROM registry.retention AS r LOOP
        FOR day IN SELECT first_day + n FROM generate_series(0, days - 1) AS n LOOP
            CONTINUE WHEN day <= family.closed_through
                       OR to_regclass(format('registry.%I', family.name || to_char(day, '_YYYYMMDD'))) IS NOT NULL;
            -- Made apart and then attached: that stops no writer, and what the default partition caught of this day moves over, where
            -- it would otherwise forbid the day its partition for ever.
            EXECUTE format($make$
                CREATE TABLE registry.%1$I (LIKE registry.%2$I INCLUDING ALL);
                WITH caught AS (DELETE FROM registry.%3$I WHERE %4$I >= %5$L AND %4$I < %6$L RETURNING *)
                INSERT INTO registry.%1$I SELECT * FROM caught;
                ALTER TABLE registry.%2$I ATTACH PARTITION registry.%1$I FOR VALUES FROM (%5$L) TO (%6$L)
            $make$, family.name || to_char(day, '_YYYYMMDD'), family.name, family.name || '_default', family.key,
                registry.first_key_of(family.key, day), registry.first_key_of(family.key, day + 1));
            made := made + 1;
        END LOOP;
    END LOOP;
    RETURN made;
END
$$;
COMMENT ON FUNCTION registry.make_partitions IS 'Makes the daily partitions of the journal, deliveries and attempts that are missing, but for closed days; returns how many it made.';

INSERT INTO registry.retention (family, key, closed_through)
SELECT f.name, f.key, coalesce((SELECT min(p.day) FROM registry.day_partition AS p WHERE p.family = f.name), (now() AT TIME ZONE 'UTC')::date) - 1
  FROM (VALUES ('journal_page', 'page_id'), ('notification_delivered', 'delivered_at'), ('delivery_attempt', 'attempted_at')) AS f(name, key);

-- ---------------------------------------------------------------------------------------------------------------------------------
-- Finding a query costs the same in three years

-- Planned for the very id (EXECUTE): one partition is opened, locked and probed. A plan that is kept for any id opens and locks every
-- partition there is before it prunes all but one.
CREATE OR REPLACE FUNCTION registry.find_query(id uuid) RETURNS SETOF registry.presence_query
LANGUAGE plpgsql STABLE ROWS 1
AS $$
BEGIN
    RETURN QUERY EXECUTE $probe$
        SELECT $1, p.messenger_id, substring(p.digests FROM 16 * $3 + 1 FOR 16), get_bit(p.present, $3) = 1, p.received_at, p.answered_at
          FROM registry.journal_page AS p
         WHERE p.page_id = $2 AND $3 < p.queries
    $probe$ USING id, (left(id::text, 32) || '0000')::uuid, ('x' || right(id::text, 4))::bit(16)::integer;
END
$$;
COMMENT ON FUNCTION registry.find_query IS 'One query by its id: one probe of the primary key of one day''s partition.';

GRANT EXECUTE ON FUNCTION registry.open_presence(), registry.open_delivered(), registry.open_attempts(), registry.delivered_last_hour()
    TO registryd_report, registryd_app;
GRANT EXECUTE ON FUNCTION registry.close_day(text), registry.drop_day(text), registry.retention_state() TO registryd_app;
