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

CREATE OR REPLACE VIEW registry.day_partition AS
SELECT parent.relname::text AS family, to_date(right(part.relname, 8), 'YYYYMMDD') AS day, part.oid::regclass AS partition
  FROM pg_catalog.pg_inherits AS i
  JOIN pg_catalog.pg_class AS parent ON parent.oid = i.inhparent
  JOIN pg_catalog.pg_class AS part ON part.oid = i.inhrelid
 WHERE parent.relnamespace = 'registry'::regnamespace AND parent.relkind = 'p' AND part.relname ~ '_[0-9]{8}$';
COMMENT ON VIEW registry.day_partition IS 'The daily partitions there are.';
COMMENT ON COLUMN registry.day_partition.family IS 'The partitioned table.';
COMMENT ON COLUMN registry.day_partition.day IS 'The day (UTC).';
COMMENT ON COLUMN registry.day_partition.partition IS 'Its partition.';

CREATE OR REPLACE FUNCTION registry.first_key_of(key text, day date) RETURNS text
LANGUAGE sql IMMUTABLE
AS $$ SELECT CASE key WHEN 'page_id' THEN registry.first_id_of(day)::text ELSE to_char(day, 'YYYY-MM-DD') || ' 00:00+00' END $$;
COMMENT ON FUNCTION registry.first_key_of IS 'Where a day''s partition begins, as the text of a value of its key.';

CREATE OR REPLACE FUNCTION registry.kept_from(family text) RETURNS date
LANGUAGE sql STABLE SET timezone = 'UTC'
AS $$
    SELECT (now() - CASE family WHEN 'journal_page' THEN p.journal_kept ELSE p.notification_kept END)::date
      FROM registry.policy_in_force(now()) AS p
$$;
COMMENT ON FUNCTION registry.kept_from IS 'The first day that the policy in force still keeps of a partitioned table, in part at least; NULL where no policy is in force, so that nothing goes.';

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

CREATE OR REPLACE FUNCTION registry.count_late_entry() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = registry, pg_temp
AS $$
BEGIN
    EXECUTE registry.counting(TG_ARGV[0], 'SELECT ($1).*') USING NEW;
    RETURN NULL;
END
$$;
COMMENT ON FUNCTION registry.count_late_entry IS 'A row that reaches a closed partition adds its own figures.';

CREATE OR REPLACE FUNCTION registry.close_day(family text) RETURNS date
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

CREATE OR REPLACE FUNCTION registry.drop_day(family text) RETURNS date
LANGUAGE plpgsql SECURITY DEFINER SET search_path = registry, pg_temp SET timezone = 'UTC' SET lock_timeout = '50ms'
AS $$
DECLARE
    over date := registry.kept_from(family);
    kept registry.retention;
    gone registry.day_partition;
    figures bigint;
BEGIN
    SELECT r.* INTO kept FROM registry.retention AS r WHERE r.family = drop_day.family;
    IF NOT FOUND OR over IS NULL OR NOT pg_try_advisory_xact_lock(hashtextextended('registry.retention', 0)) THEN
        RETURN NULL;
    END IF;
    -- What lies in the default partition goes as a day does, with its figures kept.
    EXECUTE registry.counting(family, format('DELETE FROM registry.%I WHERE %I < %L RETURNING *', family || '_default', kept.key,
                                             registry.first_key_of(kept.key, over)));
    GET DIAGNOSTICS figures = ROW_COUNT;
    IF family = 'journal_page' AND figures > 0 THEN
        PERFORM registry.append_seal('retention', '{}', '{}', to_char(over, 'YYYY-MM-DD'));
    END IF;
    SELECT p.* INTO gone FROM registry.day_partition AS p
     WHERE p.family = drop_day.family AND p.day < over AND p.day <= kept.closed_through
     ORDER BY p.day LIMIT 1;
    IF NOT FOUND THEN
        RETURN NULL;
    END IF;
    FOR attempt IN 1..8 LOOP
        BEGIN
            IF family = 'journal_page' THEN
                PERFORM registry.append_seal('retention', '{}', '{}', to_char(over, 'YYYY-MM-DD'));
            END IF;
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

CREATE OR REPLACE FUNCTION registry.retention_state() RETURNS TABLE (family text, unplaced_rows bigint, days_over bigint)
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
