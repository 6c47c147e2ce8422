-- How long evidence stays: partitions are made ahead, and go when the policy says that they are over.
--
-- Three tables are partitioned by time (UTC): journal_page by weeks, notification_delivered and delivery_attempt by months, so that three
-- years of all are some 230 partitions. Their figures do not wait for a partition's end: a seal adds those of its window to presence_day
-- (seals.sql), and a trigger appends those of each statement to delivered_day and attempt_day (movements.sql). So a partition that goes takes no
-- figure with it, and a row that comes late is counted like any other.
--
-- The policy's time is kept at least: a partition goes once all of it is over. A row that no partition takes lies in the default partition, and
-- goes as one would. Nobody but the owner can remove a row, and the daemon only asks: drop_part takes no time from its caller and reads
-- policy and clock itself, so that nobody who has the daemon's role can make evidence vanish before its time.
--
-- Dropping needs an ACCESS EXCLUSIVE lock on the whole table, for milliseconds: DETACH CONCURRENTLY, which does not, is refused by
-- PostgreSQL where there is a default partition. drop_part therefore waits 50 ms for it at most, so that no query waits longer, and tries again.

CREATE OR REPLACE VIEW registry.partitioned AS
SELECT f.family, f.key, f.period
  FROM (VALUES ('journal_page', 'page_id', 'week'), ('notification_delivered', 'delivered_at', 'month'), ('delivery_attempt', 'attempted_at', 'month')) AS f(family, key, period);
COMMENT ON VIEW registry.partitioned IS 'The partitioned tables.';
COMMENT ON COLUMN registry.partitioned.family IS 'The table.';
COMMENT ON COLUMN registry.partitioned.key IS 'The column it is partitioned by: a time, or page_id, which begins with one.';
COMMENT ON COLUMN registry.partitioned.period IS 'How long a partition is: a week from Monday, or a month.';

CREATE OR REPLACE VIEW registry.day_partition AS
SELECT f.family, to_date(right(part.relname, 8), 'YYYYMMDD') AS day, part.oid::regclass AS partition,
       (to_date(right(part.relname, 8), 'YYYYMMDD') + ('1 ' || f.period)::interval)::date AS end_day
  FROM registry.partitioned AS f
  JOIN pg_catalog.pg_inherits AS i ON i.inhparent = ('registry.' || f.family)::regclass
  JOIN pg_catalog.pg_class AS part ON part.oid = i.inhrelid
 WHERE part.relname ~ '_[0-9]{8}$';
COMMENT ON VIEW registry.day_partition IS 'The partitions there are.';
COMMENT ON COLUMN registry.day_partition.family IS 'The partitioned table.';
COMMENT ON COLUMN registry.day_partition.day IS 'The first day (UTC).';
COMMENT ON COLUMN registry.day_partition.partition IS 'Its partition.';
COMMENT ON COLUMN registry.day_partition.end_day IS 'The day after the last one.';

CREATE OR REPLACE FUNCTION registry.first_key_of(key text, day date) RETURNS text
LANGUAGE sql IMMUTABLE
AS $$
    SELECT CASE key WHEN 'page_id' THEN registry.first_id_at(day::timestamp AT TIME ZONE 'UTC')::text ELSE to_char(day, 'YYYY-MM-DD') || ' 00:00+00' END
$$;
COMMENT ON FUNCTION registry.first_key_of IS 'Where a day begins, as the text of a value of a partitioned table''s key.';

CREATE OR REPLACE FUNCTION registry.kept_from(family text) RETURNS date
LANGUAGE sql STABLE SET timezone = 'UTC'
AS $$
    SELECT date_trunc(f.period, now() - CASE f.family WHEN 'journal_page' THEN p.journal_kept ELSE p.notification_kept END)::date
      FROM registry.policy_in_force(now()) AS p JOIN registry.partitioned AS f ON f.family = kept_from.family
$$;
COMMENT ON FUNCTION registry.kept_from IS 'Where the first partition begins that the policy in force still keeps of a table, in part at least; NULL where no policy is in force, so that nothing goes.';

CREATE OR REPLACE FUNCTION registry.make_partitions(first_day date, days integer) RETURNS integer
LANGUAGE plpgsql SECURITY DEFINER SET search_path = registry, pg_temp SET timezone = 'UTC' SET lock_timeout = '2s'
AS $$
DECLARE
    part record;
    made integer := 0;
BEGIN
    -- One at a time: processes race here.
    PERFORM pg_advisory_xact_lock(hashtextextended('registry.make_partitions', 0));
    FOR part IN
        SELECT DISTINCT f.family, f.key, b.day, (b.day + ('1 ' || f.period)::interval)::date AS end_day, f.family || to_char(b.day, '_YYYYMMDD') AS name
          FROM registry.partitioned AS f, generate_series(0, days - 1) AS n, LATERAL (SELECT date_trunc(f.period, (first_day + n)::timestamp)::date) AS b(day)
         ORDER BY f.family, b.day
    LOOP
        CONTINUE WHEN to_regclass(format('registry.%I', part.name)) IS NOT NULL;
        -- Made apart and then attached: that stops no writer, and what the default partition caught of this time moves over, where
        -- it would otherwise forbid the partition for ever. Rows stay whole up to 8 kB, so that pages of some 400 queries need no TOAST.
        EXECUTE format($make$
            CREATE TABLE registry.%1$I (LIKE registry.%2$I INCLUDING ALL) WITH (toast_tuple_target = 8160);
            CREATE TRIGGER refuse_truncate BEFORE TRUNCATE ON registry.%1$I FOR EACH STATEMENT EXECUTE FUNCTION registry.refuse_truncate();
            WITH caught AS (DELETE FROM registry.%3$I WHERE %4$I >= %5$L AND %4$I < %6$L RETURNING *)
            INSERT INTO registry.%1$I SELECT * FROM caught;
            ALTER TABLE registry.%2$I ATTACH PARTITION registry.%1$I FOR VALUES FROM (%5$L) TO (%6$L)
        $make$, part.name, part.family, part.family || '_default', part.key,
            registry.first_key_of(part.key, part.day), registry.first_key_of(part.key, part.end_day));
        made := made + 1;
    END LOOP;
    RETURN made;
END
$$;
COMMENT ON FUNCTION registry.make_partitions IS 'Makes the partitions of the journal, deliveries and attempts that are missing for these days; returns how many it made.';

CREATE OR REPLACE FUNCTION registry.drop_part(family text) RETURNS date
LANGUAGE plpgsql SECURITY DEFINER SET search_path = registry, pg_temp SET timezone = 'UTC' SET lock_timeout = '50ms'
AS $$
DECLARE
    over    date := registry.kept_from(family);
    key     text := (SELECT f.key FROM registry.partitioned AS f WHERE f.family = drop_part.family);
    gone    registry.day_partition;
    deleted bigint;
BEGIN
    IF over IS NULL OR NOT pg_try_advisory_xact_lock(hashtextextended('registry.retention', 0)) THEN
        RETURN NULL;
    END IF;
    IF family = 'journal_page' THEN
        -- What is not sealed yet has not been counted.
        over := least(over, (SELECT s.until_at::date FROM registry.seal AS s ORDER BY s.sequence DESC LIMIT 1));
    END IF;
    SELECT p.* INTO gone FROM registry.day_partition AS p WHERE p.family = drop_part.family AND p.end_day <= over ORDER BY p.day LIMIT 1;
    gone.end_day := coalesce(gone.end_day, over);
    FOR attempt IN 1..8 LOOP
        BEGIN
            EXECUTE format('DELETE FROM registry.%I WHERE %I < %L', family || '_default', key, registry.first_key_of(key, gone.end_day));
            GET DIAGNOSTICS deleted = ROW_COUNT;
            IF family = 'journal_page' AND (deleted > 0 OR gone.partition IS NOT NULL) THEN
                PERFORM registry.forget_seals(gone.end_day);
            END IF;
            IF gone.partition IS NOT NULL THEN
                -- The partition first, which no query needs: the table is then locked for no longer than the drop itself takes.
                EXECUTE format('LOCK TABLE %s IN ACCESS EXCLUSIVE MODE', gone.partition);
                EXECUTE format('DROP TABLE %s', gone.partition);
            END IF;
            RETURN gone.day;
        EXCEPTION WHEN lock_not_available THEN
            PERFORM pg_sleep(0.1 + 0.2 * random());
        END;
    END LOOP;
    RETURN NULL;
END
$$;
COMMENT ON FUNCTION registry.drop_part IS 'Drops the oldest partition of a table that the policy in force no longer keeps and returns its first day; NULL where there is none, where somebody else is at it, or where the table was too busy: then ask again later.';

CREATE OR REPLACE FUNCTION registry.forget_seals(before date) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = registry, pg_temp SET timezone = 'UTC'
AS $$
DECLARE
    stays registry.seal;
BEGIN
    SELECT s.* INTO stays FROM registry.seal AS s WHERE s.until_at <= before ORDER BY s.sequence DESC LIMIT 1;
    DELETE FROM registry.seal AS s WHERE s.sequence < stays.sequence;
    PERFORM registry.append_seal('retention', NULL, 0, 0, sha256(''),
        format('%s %s %s', to_char(before, 'YYYY-MM-DD'), coalesce(stays.sequence - 1, 0), encode(stays.previous, 'hex')));
END
$$;
COMMENT ON FUNCTION registry.forget_seals IS 'Deletes the seals from the chain''s beginning whose pages go, all but the last, and appends the seal that says so.';

CREATE OR REPLACE FUNCTION registry.retention_state() RETURNS TABLE (family text, unplaced_rows bigint, parts_over bigint)
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = registry, pg_temp
AS $$
    SELECT f.family,
           CASE f.family WHEN 'journal_page' THEN (SELECT count(*) FROM (SELECT FROM registry.journal_page_default LIMIT 100000) AS s)
                         WHEN 'notification_delivered' THEN (SELECT count(*) FROM (SELECT FROM registry.notification_delivered_default LIMIT 100000) AS s)
                         ELSE (SELECT count(*) FROM (SELECT FROM registry.delivery_attempt_default LIMIT 100000) AS s) END,
           (SELECT count(*) FROM registry.day_partition AS p WHERE p.family = f.family AND p.end_day <= registry.kept_from(f.family))
      FROM registry.partitioned AS f
$$;
COMMENT ON FUNCTION registry.retention_state IS 'What should be zero, by partitioned table: rows in the default partition (counted to 100,000), and partitions still there that the policy no longer keeps.';
