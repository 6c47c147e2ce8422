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

CREATE OR REPLACE FUNCTION registry.kept_partitions() RETURNS TABLE (family text, partitions integer, oldest date, made_until date, size_bytes bigint)
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = registry, pg_temp
AS $$
    SELECT p.family, count(*)::integer, min(p.day), max(p.end_day) - 1, sum(pg_total_relation_size(p.partition))::bigint
      FROM registry.day_partition AS p GROUP BY p.family
$$;
COMMENT ON FUNCTION registry.kept_partitions IS 'How much there is of each partitioned table: its first day, the last one that a partition is made for, and the size with indexes.';

CREATE OR REPLACE FUNCTION registry.chain_end()
RETURNS TABLE (seals bigint, sequence bigint, sealed_at timestamptz, sealed_until timestamptz, unsealed_pages bigint, log_entries bigint)
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = registry, pg_temp
AS $$
BEGIN
    SELECT s.sequence, s.sealed_at, s.until_at, s.sequence - (SELECT min(f.sequence) FROM registry.seal AS f) + 1
      INTO sequence, sealed_at, sealed_until, seals
      FROM registry.seal AS s ORDER BY s.sequence DESC LIMIT 1;
    SELECT count(*) INTO log_entries FROM registry.breakglass_event;
    -- EXECUTE plans for this id alone, so that only its partitions are opened.
    EXECUTE format('SELECT count(*) FROM (SELECT FROM registry.journal_page AS p WHERE p.page_id >= %L LIMIT 10000) AS open',
                   registry.first_id_at(sealed_until)) INTO unsealed_pages;
    RETURN NEXT;
END
$$;
COMMENT ON FUNCTION registry.chain_end IS 'Where the chain over the journal ends, how many pages it does not cover yet (counted to 10,000), and how long the break-glass log is.';

CREATE OR REPLACE FUNCTION registry.without_numbers(written text) RETURNS text
LANGUAGE sql IMMUTABLE PARALLEL SAFE
AS $$
    SELECT regexp_replace(written, '(?<![0-9])[0-9]{10,15}(?![0-9])|((?<=\+)[0-9]|(?<![0-9A-Za-z])[78])([ ()-]{0,3}[0-9]){9,14}(?![0-9])', '*', 'g')
$$;
COMMENT ON FUNCTION registry.without_numbers IS 'What a person wrote, with a star for what might be a number: 10 to 15 digits, also +7 921 123-45-67 or 8 (921) 123-45-67. The same in words: registryd/domain/identifiers.py; a test holds the two together.';

CREATE OR REPLACE FUNCTION registry.without_digits(written text) RETURNS text
LANGUAGE sql IMMUTABLE PARALLEL SAFE
AS $$ SELECT regexp_replace(written, '(?<![0-9])[0-9]{10,15}(?![0-9])', '*', 'g') $$;
COMMENT ON FUNCTION registry.without_digits IS 'What a program wrote, such as an id, with a star for 10 to 15 digits in a row.';

CREATE OR REPLACE FUNCTION registry.open_requests()
RETURNS TABLE (
    request bigint, kind text, requested_at timestamptz, requested_by text, number text, scope text, reason text, is_prepared boolean,
    approved_by text, ends_at timestamptz
)
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = registry, pg_temp
AS $$
    SELECT r.request, r.kind, r.requested_at, r.requested_by, r.number,
           registry.without_digits(r.scope), registry.without_numbers(r.reason),
           r.is_prepared, r.approved_by, r.ends_at
      FROM breakglass.open_requests() AS r
$$;
COMMENT ON FUNCTION registry.open_requests IS 'What breakglass.open_requests() tells, for the console: nothing that might be a number stands in it.';

CREATE OR REPLACE FUNCTION registry.find_answer(id uuid)
RETURNS TABLE (messenger text, answered_at timestamptz, present boolean, bound boolean, waited_s double precision, is_sealed boolean, queries integer, messengers text[])
LANGUAGE plpgsql STABLE SECURITY DEFINER ROWS 1 SET search_path = registry, pg_temp
AS $$
DECLARE
    place integer := ('x' || right(id::text, 4))::bit(16)::integer;
BEGIN
    -- EXECUTE plans for this id alone, so that only its partition is opened.
    RETURN QUERY EXECUTE $probe$
        SELECT m.name, p.answered_at, CASE WHEN p.told IS NULL OR get_bit(p.told, $2) = 1 THEN get_bit(p.present, $2) = 1 END,
               coalesce(get_bit(p.bound, $2) = 1, false), extract(epoch FROM r.waited)::float8,
               p.page_id < (SELECT registry.first_id_at(s.until_at) FROM registry.seal AS s ORDER BY s.sequence DESC LIMIT 1), p.queries,
               ARRAY(SELECT o.name FROM registry.messenger AS o WHERE o.messenger_id = ANY (p.messenger_ids) ORDER BY o.name)
          FROM registry.journal_page AS p
         CROSS JOIN LATERAL registry.runs_of(p) AS r
          JOIN registry.messenger AS m ON m.messenger_id = r.messenger_id
         WHERE p.page_id = $1 AND $2 >= r.first AND $2 < r.first + r.queries
    $probe$ USING (left(id::text, 32) || '0000')::uuid, place;
END
$$;
COMMENT ON FUNCTION registry.find_answer IS 'One answer by its query''s id, and whom its page served: without a digest, so that it tells nothing of a number. present is NULL where the query was not answered but asked again.';
