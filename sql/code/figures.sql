-- Figures: one text of each, for days that are closed and for those that are open.

CREATE OR REPLACE FUNCTION registry.figures(family text) RETURNS text
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

CREATE OR REPLACE FUNCTION registry.counting(family text, entries text) RETURNS text
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

CREATE OR REPLACE FUNCTION registry.counting_open(family text) RETURNS text
LANGUAGE sql STABLE
AS $$
    SELECT format('WITH entry AS (SELECT * FROM registry.%1$I WHERE %2$I >= %4$L UNION ALL SELECT * FROM registry.%3$I WHERE %2$I < %4$L) %5$s',
                  r.family, r.key, r.family || '_default', registry.first_key_of(r.key, r.closed_through + 1), registry.figures(r.family))
      FROM registry.retention AS r WHERE r.family = counting_open.family
$$;
COMMENT ON FUNCTION registry.counting_open IS 'The statement that makes figures of what no table of figures counts: open days, and what lies in the default partition.';

-- The reports' other half. Planned for the day they begin at (EXECUTE): a view that named the partitioned table would plan, lock and,
-- with JIT, compile a scan of every closed day before it left it out. Deliveries and attempts of a million rows sort: without it the planner left parallel
-- workers alone (840 ms; 350 ms so).
CREATE OR REPLACE FUNCTION registry.open_presence() RETURNS SETOF registry.presence_day
LANGUAGE plpgsql STABLE SECURITY DEFINER ROWS 100 SET search_path = registry, pg_temp SET enable_sort = off SET jit = off
AS $$ BEGIN RETURN QUERY EXECUTE registry.counting_open('journal_page'); END $$;
COMMENT ON FUNCTION registry.open_presence IS 'The figures of presence_day for pages that it does not count.';

CREATE OR REPLACE FUNCTION registry.open_delivered() RETURNS SETOF registry.delivered_day
LANGUAGE plpgsql STABLE SECURITY DEFINER ROWS 100 SET search_path = registry, pg_temp SET jit = off
AS $$ BEGIN RETURN QUERY EXECUTE registry.counting_open('notification_delivered'); END $$;
COMMENT ON FUNCTION registry.open_delivered IS 'The figures of delivered_day for deliveries that it does not count.';

CREATE OR REPLACE FUNCTION registry.open_attempts() RETURNS SETOF registry.attempt_day
LANGUAGE plpgsql STABLE SECURITY DEFINER ROWS 100 SET search_path = registry, pg_temp SET jit = off
AS $$ BEGIN RETURN QUERY EXECUTE registry.counting_open('delivery_attempt'); END $$;
COMMENT ON FUNCTION registry.open_attempts IS 'The figures of attempt_day for attempts that it does not count.';

CREATE OR REPLACE FUNCTION registry.delivered_last_hour() RETURNS TABLE (messenger_id integer, delivered bigint)
LANGUAGE plpgsql STABLE SECURITY DEFINER ROWS 100 SET search_path = registry, pg_temp SET jit = off
AS $$
BEGIN
    RETURN QUERY EXECUTE format('SELECT d.messenger_id, count(*) FROM registry.notification_delivered AS d WHERE d.delivered_at > %L GROUP BY 1',
                                now() - interval '1 hour');
END
$$;
COMMENT ON FUNCTION registry.delivered_last_hour IS 'How many notifications each messenger received in the last hour: the pace of report.notification_backlog.';
