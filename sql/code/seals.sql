-- Seals: they show whether the journal was changed after it was written.
--
-- A page's id begins with the minute that is its window (new_page_id). Once a minute one of the operate processes seals what is over
-- (seal_window): it takes the locks of the windows alone, so that whoever writes there has committed and nobody can begin to, reads the
-- pages, and appends one row to registry.seal for all processes together. Where a transaction holds a window open, its seal waits for it
-- and pages go on in later windows. Nobody has to remember what he wrote, so a process that is killed leaves nothing unsealed.
--
-- All seals are one chain without a gap: each holds the hash of the one before, and begins where that one's window ends. So nothing below a seal
-- that somebody wrote down elsewhere (`registryd audit head`) can be changed, removed, added or put in another order without `registryd
-- audit verify` finding it. Everything is hashed inside the database, over what it holds, by functions PostgreSQL brings along:
--
--   content  SHA-256 of the window's pages in the order of their ids, each page_id, answered_at, queries, digest_key, messenger_ids,
--            query_counts, waited_ms, digests, present, told, bound and turned_by_rule as its type's send function has it (PostgreSQL's
--            binary format; digests as they are, what is NULL as ffffffff), one after another
--   sha256   SHA-256 of previous, sequence, sealed_at, from_at, until_at, pages, queries, content, system_identifier, timeline, kind and note:
--            all of the row, in the same way, kind and note in UTF-8
--
-- What it does not show: a page that was changed before its window was sealed, which is about a minute. No key is held here: who owns the
-- database can make the whole chain anew, and a head that is kept elsewhere tells that he did. A primary that was lost may take its last
-- seals with it; each seal names the timeline it was written on, so that a kept head of the lost one is told as what it is.
--
-- Seals go with their pages (drop_part), from the chain's beginning, and the chain says so: a seal of kind 'retention' names the day before
-- which pages went, and the last seal that went with its hash, which is the `previous` of the first that is left. The pages of that
-- first seal are gone too, which proves that no seal was deleted whose pages had to be kept.

CREATE OR REPLACE FUNCTION registry.append_seal(kind registry.seal_kind, until_at timestamptz, pages bigint, queries bigint, content bytea, note text)
RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = registry, pg_temp
AS $$
DECLARE
    last registry.seal;
    made registry.seal;
BEGIN
    -- One seal at a time until the caller's commit, because a chain has one end.
    PERFORM pg_advisory_xact_lock(hashtextextended('registry.seal', 0));
    SELECT s.* INTO last FROM registry.seal AS s ORDER BY s.sequence DESC LIMIT 1;
    made.sequence := coalesce(last.sequence, 0) + 1;
    made.sealed_at := clock_timestamp();
    made.from_at := coalesce(last.until_at, append_seal.until_at);
    made.until_at := coalesce(append_seal.until_at, made.from_at);
    made.previous := coalesce(last.sha256, decode(repeat('00', 32), 'hex'));
    made.system_identifier := (SELECT c.system_identifier FROM pg_control_system() AS c);
    made.timeline := ('x' || left(pg_walfile_name(pg_current_wal_lsn()), 8))::bit(32)::integer;
    made.sha256 := sha256(made.previous || int8send(made.sequence) || timestamptz_send(made.sealed_at) || timestamptz_send(made.from_at)
                          || timestamptz_send(made.until_at) || int8send(append_seal.pages) || int8send(append_seal.queries) || append_seal.content
                          || int8send(made.system_identifier) || int4send(made.timeline) || convert_to(append_seal.kind::text || append_seal.note, 'UTF8'));
    INSERT INTO registry.seal (sequence, sealed_at, kind, note, from_at, until_at, pages, queries, content, system_identifier, timeline, previous, sha256)
    VALUES (made.sequence, made.sealed_at, append_seal.kind, append_seal.note, made.from_at, made.until_at, append_seal.pages, append_seal.queries,
            append_seal.content, made.system_identifier, made.timeline, made.previous, made.sha256);
END
$$;
COMMENT ON FUNCTION registry.append_seal IS 'Appends one seal to the chain; `until_at` NULL: it covers no window. The next one waits for this transaction''s end.';

CREATE OR REPLACE FUNCTION registry.presence_between(first_page uuid, end_page uuid) RETURNS SETOF registry.presence_day
LANGUAGE plpgsql STABLE SECURITY DEFINER ROWS 100 SET search_path = registry, pg_temp SET enable_sort = off SET jit = off
AS $$
BEGIN
    -- EXECUTE plans for these ids alone, so that only their partitions are opened.
    RETURN QUERY EXECUTE format($figures$
        SELECT (p.answered_at AT TIME ZONE 'UTC')::date, r.messenger_id, sum(t.queries)::bigint, sum(t.present)::bigint, sum(t.bound)::bigint,
               coalesce(sum(t.queries) FILTER (WHERE r.waited <= law.answer_within), 0)::bigint,
               coalesce(sum(t.queries) FILTER (WHERE r.waited > law.answer_within), 0)::bigint, max(r.waited), max(law.answer_within)
          FROM registry.journal_page AS p
         CROSS JOIN LATERAL registry.runs_of(p) AS r
         CROSS JOIN LATERAL (SELECT CASE WHEN p.told IS NULL THEN r.queries ELSE bit_count(substring(p.told FROM r.first + 1 FOR r.queries)) END,
                                    bit_count(substring(coalesce(p.present & p.told, p.present) FROM r.first + 1 FOR r.queries)),
                                    coalesce(bit_count(substring(p.bound FROM r.first + 1 FOR r.queries)), 0)) AS t(queries, present, bound)
          LEFT JOIN (SELECT l.answer_within, l.effective_from,
                            coalesce(lead(l.effective_from) OVER (ORDER BY l.effective_from), 'infinity') AS superseded_at
                       FROM registry.policy AS l) AS law
            ON p.answered_at - r.waited >= law.effective_from AND p.answered_at - r.waited < law.superseded_at
         WHERE p.page_id >= %L AND p.page_id < %L AND t.queries > 0
         GROUP BY 1, 2 ORDER BY 1, 2
    $figures$, first_page, end_page);
END
$$;
COMMENT ON FUNCTION registry.presence_between IS 'The figures of the pages from one id to below another, as presence_day holds them of pages that are sealed.';

CREATE OR REPLACE FUNCTION registry.open_presence() RETURNS SETOF registry.presence_day
LANGUAGE sql STABLE SECURITY DEFINER ROWS 100 SET search_path = registry, pg_temp
AS $$
    SELECT f.* FROM registry.presence_between((SELECT registry.first_id_at(s.until_at) FROM registry.seal AS s ORDER BY s.sequence DESC LIMIT 1),
                                              'ffffffff-ffff-ffff-ffff-ffffffffffff') AS f
$$;
COMMENT ON FUNCTION registry.open_presence IS 'The figures of the pages that are not sealed yet, which presence_day does not count.';

CREATE OR REPLACE FUNCTION registry.seal_windows_before(at timestamptz) RETURNS TABLE (pages bigint, queries bigint)
LANGUAGE plpgsql SECURITY DEFINER SET search_path = registry, pg_temp SET jit = off
AS $$
DECLARE
    starts integer;
    ends   integer := floor(date_part('epoch', at) / 60);
    opened uuid;
    hashed bytea;
BEGIN
    IF current_setting('transaction_isolation') <> 'read committed' THEN
        RAISE EXCEPTION 'windows are sealed in READ COMMITTED transactions only'
            USING ERRCODE = 'invalid_transaction_state', HINT = 'A stricter isolation would not see the pages that were committed while it waited.';
    END IF;
    IF NOT pg_try_advisory_xact_lock(hashtextextended('registry.seal', 0)) THEN
        RETURN;
    END IF;
    SELECT date_part('epoch', s.until_at) / 60, registry.first_id_at(s.until_at) INTO starts, opened FROM registry.seal AS s ORDER BY s.sequence DESC LIMIT 1;
    -- A seal ends with the first window that has a page, or after an hour without one, or with the day.
    EXECUTE format('SELECT p.page_id FROM registry.journal_page AS p WHERE p.page_id >= %L ORDER BY p.page_id LIMIT 1', opened) INTO opened;
    IF opened IS NULL OR date_part('epoch', registry.time_of(opened)) / 60 >= least(ends, starts + 60) THEN
        IF ends < starts + 60 THEN
            RETURN;
        END IF;
        opened := NULL;
    END IF;
    ends := least(ends, (starts / 1440 + 1) * 1440, starts + 60, floor(date_part('epoch', registry.time_of(opened)) / 60) + 1);
    FOR number IN starts .. ends - 1 LOOP
        IF NOT pg_try_advisory_xact_lock(1801, number) THEN
            ends := number;
            EXIT;
        END IF;
    END LOOP;
    IF ends <= starts THEN
        RETURN;
    END IF;
    -- From here on no page can come below `ends`: not even if this transaction fails.
    PERFORM setval('registry.sealed_until_ms', ends * 60000::bigint);
    EXECUTE format($pages$
        SELECT count(*), coalesce(sum(p.queries), 0), sha256(coalesce(string_agg(p.bytes, ''), ''))
          FROM (SELECT p.queries, uuid_send(p.page_id) || timestamptz_send(p.answered_at) || int4send(p.queries) || int2send(p.digest_key)
                                  || array_send(p.messenger_ids) || array_send(p.query_counts) || array_send(p.waited_ms) || p.digests
                                  || varbit_send(p.present) || coalesce(varbit_send(p.told), '\xffffffff') || coalesce(varbit_send(p.bound), '\xffffffff')
                                  || coalesce(int4send(p.turned_by_rule), '\xffffffff') AS bytes
                  FROM registry.journal_page AS p WHERE p.page_id >= %L AND p.page_id < %L ORDER BY p.page_id) AS p
    $pages$, registry.first_id_at(to_timestamp(starts * 60::bigint)), registry.first_id_at(to_timestamp(ends * 60::bigint)))
       INTO pages, queries, hashed;
    INSERT INTO registry.presence_day AS kept (day, messenger_id, queries, present_count, bound_count, in_time, late, worst_wait, allowed)
    SELECT f.day, f.messenger_id, f.queries, f.present_count, f.bound_count, f.in_time, f.late, f.worst_wait, f.allowed
      FROM registry.presence_between(registry.first_id_at(to_timestamp(starts * 60::bigint)), registry.first_id_at(to_timestamp(ends * 60::bigint))) AS f
        ON CONFLICT (day, messenger_id) DO UPDATE
       SET queries = kept.queries + excluded.queries, present_count = kept.present_count + excluded.present_count,
           bound_count = kept.bound_count + excluded.bound_count,
           in_time = kept.in_time + excluded.in_time, late = kept.late + excluded.late,
           worst_wait = greatest(kept.worst_wait, excluded.worst_wait), allowed = greatest(kept.allowed, excluded.allowed);
    EXECUTE format($turned$
        INSERT INTO registry.turned_day AS kept (day, turned_by_rule)
        SELECT (p.answered_at AT TIME ZONE 'UTC')::date, sum(p.turned_by_rule) FROM registry.journal_page AS p
         WHERE p.page_id >= %L AND p.page_id < %L AND p.turned_by_rule IS NOT NULL
         GROUP BY 1
            ON CONFLICT (day) DO UPDATE SET turned_by_rule = kept.turned_by_rule + excluded.turned_by_rule
    $turned$, registry.first_id_at(to_timestamp(starts * 60::bigint)), registry.first_id_at(to_timestamp(ends * 60::bigint)));
    PERFORM registry.append_seal('window', to_timestamp(ends * 60::bigint), pages, queries, hashed, '');
    RETURN NEXT;
END
$$;
COMMENT ON FUNCTION registry.seal_windows_before IS 'Seals the next window that ended before a time, with the windows before it that no page is in, and adds its figures to presence_day. Returns how much it sealed; no row where there is nothing to seal, or where somebody holds the window open: then ask again later.';

CREATE OR REPLACE FUNCTION registry.seal_window() RETURNS TABLE (pages bigint, queries bigint)
LANGUAGE sql VOLATILE SECURITY DEFINER SET search_path = registry, pg_temp
AS $$ SELECT w.pages, w.queries FROM registry.seal_windows_before(clock_timestamp()) AS w $$;
COMMENT ON FUNCTION registry.seal_window IS 'The same by the database''s clock, which the caller cannot choose.';

CREATE OR REPLACE FUNCTION registry.unsealed_s() RETURNS double precision
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = registry, pg_temp
AS $$
DECLARE
    oldest uuid;
BEGIN
    EXECUTE format('SELECT p.page_id FROM registry.journal_page AS p WHERE p.page_id >= %L ORDER BY p.page_id LIMIT 1',
                   (SELECT registry.first_id_at(s.until_at) FROM registry.seal AS s ORDER BY s.sequence DESC LIMIT 1)) INTO oldest;
    RETURN coalesce(greatest(date_part('epoch', clock_timestamp() - registry.time_of(oldest)), 0), 0);
END
$$;
COMMENT ON FUNCTION registry.unsealed_s IS 'How many seconds ago the oldest page without a seal was written; 0 where there is none.';

CREATE OR REPLACE FUNCTION registry.answers_late(on_day date) RETURNS bigint
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = registry, pg_temp
AS $$ SELECT coalesce(sum(p.late), 0)::bigint FROM registry.presence_day AS p WHERE p.day = on_day $$;
COMMENT ON FUNCTION registry.answers_late IS 'How many queries of a day''s sealed pages were answered after the policy''s time.';
