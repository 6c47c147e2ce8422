-- Billing's feed: the beginning of a call of events, and what report.feed_status tells of ends.

CREATE OR REPLACE FUNCTION registry.open_feed_call(event_ids text[], ending integer)
RETURNS TABLE (now timestamptz, ends_left bigint, event_id text, content bytea, outcome registry.feed_outcome, reason text)
LANGUAGE plpgsql VOLATILE ROWS 10 SET search_path = registry, pg_temp
AS $$
DECLARE
    may_end bigint := 0;
BEGIN
    PERFORM pg_advisory_xact_lock(hashtextextended('registry.feed', 0));
    -- The number of the policy is looked at first: mostly it is enough, and the live contracts need not be counted.
    IF ending > 0 THEN
        may_end := (SELECT p.ends_max - registry.ended_last_hour() FROM registry.policy_in_force(pg_catalog.now()) AS p);
        IF may_end < ending THEN
            may_end := registry.ends_left();
        END IF;
    END IF;
    -- A statement of its own sees what the calls committed that were waited for. The clock is read after the wait, too.
    RETURN QUERY
    SELECT c.now, may_end, e.event_id, e.content, e.outcome, e.reason
      FROM (SELECT clock_timestamp() AS now) AS c
      LEFT JOIN registry.feed_event AS e ON e.event_id = ANY (open_feed_call.event_ids);
END
$$;
COMMENT ON FUNCTION registry.open_feed_call IS 'Waits until no other call of billing''s events is applied, and then tells the time, whether `ending` contracts may end (so many at least, else how many), and which of the call''s events were recorded before: a row for each of these, one at least.';

CREATE OR REPLACE FUNCTION registry.ends_allowed() RETURNS bigint
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = registry, pg_temp
AS $$ SELECT coalesce(sum(a.ends - a.used), 0)::bigint FROM registry.wave_allowance AS a WHERE a.until_at > now() $$;
COMMENT ON FUNCTION registry.ends_allowed IS 'How many ends beyond the hour''s bound the allowances in force still let through.';
