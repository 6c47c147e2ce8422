-- What the daemon shows of tables that it may not read, or not cheaply.

CREATE OR REPLACE FUNCTION registry.partitions_ahead() RETURNS interval
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = registry, pg_temp
AS $$
    SELECT min(f.until_at) - now()
      FROM (SELECT coalesce(max(p.end_day)::timestamp AT TIME ZONE 'UTC', now()) AS until_at
              FROM registry.partitioned AS t LEFT JOIN registry.day_partition AS p ON p.family = t.family GROUP BY t.family) AS f
$$;
COMMENT ON FUNCTION registry.partitions_ahead IS 'For how long from now every partition is there, of the partitioned table with the fewest. The daemon makes a week ahead.';

CREATE OR REPLACE FUNCTION registry.breakglass_steps() RETURNS TABLE (step text, steps bigint)
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = registry, pg_temp
AS $$
    SELECT s.step::text, count(e.sequence) FROM unnest(enum_range(NULL::registry.breakglass_step)) AS s(step)
      LEFT JOIN registry.breakglass_event AS e ON e.step = s.step GROUP BY s.step
$$;
COMMENT ON FUNCTION registry.breakglass_steps IS 'How many entries of the break-glass log there are, by step.';
