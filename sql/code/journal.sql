-- The journal: how a page gets its id, and the queries in it. Pages are written by sql/queries/presence.sql and sealed by seals.sql.

-- A window is a minute of page ids. A page holds its window's lock, shared, until it is committed; who seals a window takes the lock alone.
-- So a page can be in a window only before the window is sealed, whatever any clock says.
CREATE OR REPLACE FUNCTION registry.new_page_id() RETURNS uuid
LANGUAGE plpgsql VOLATILE
AS $$
DECLARE
    ms     bigint := floor(date_part('epoch', clock_timestamp()) * 1000);
    sealed bigint;
    locked text;
BEGIN
    LOOP
        -- An assignment, because PERFORM would cost as much again. A sequence is read as it is now, not as this transaction's snapshot has it.
        locked := pg_advisory_xact_lock_shared(1801, (ms / 60000)::integer)::text;
        -- NULL until something is sealed here: a copy by logical replication comes without what sequences held.
        sealed := coalesce(pg_sequence_last_value('registry.sealed_until_ms'), 0);
        EXIT WHEN sealed <= ms;
        ms := greatest(floor(date_part('epoch', clock_timestamp()) * 1000), sealed);
    END LOOP;
    RETURN encode(set_bit(set_bit(overlay(overlay(uuid_send(gen_random_uuid())
        PLACING substring(int8send(ms) FROM 3) FROM 1 FOR 6) PLACING '\x0000' FROM 15 FOR 2), 52, 1), 53, 1), 'hex')::uuid;
END
$$;
COMMENT ON FUNCTION registry.new_page_id IS 'The id of a new page of the journal: the time by this clock, or the end of the last sealed window if that is later, then random, then four zero digits (RFC 9562 version 7).';

CREATE OR REPLACE FUNCTION registry.runs_of(page registry.journal_page)
RETURNS TABLE (messenger_id integer, waited interval, first integer, queries integer)
LANGUAGE sql IMMUTABLE
AS $$
    SELECT r.messenger_id, r.waited_ms * interval '1 millisecond', sum(r.queries) OVER (ORDER BY r.place)::integer - r.queries, r.queries
      FROM unnest(page.messenger_ids, page.query_counts, page.waited_ms) WITH ORDINALITY AS r(messenger_id, queries, waited_ms, place)
$$;
COMMENT ON FUNCTION registry.runs_of IS 'A page''s messengers: how long the first query of each had waited, its index on the page, and how many queries follow each other from there.';

CREATE OR REPLACE FUNCTION registry.queries_of(page registry.journal_page)
RETURNS TABLE (query_id uuid, messenger_id integer, msisdn_digest bytea, present boolean, received_at timestamptz, answered_at timestamptz)
LANGUAGE sql IMMUTABLE
AS $$
    SELECT (left(page.page_id::text, 32) || lpad(to_hex(q.index), 4, '0'))::uuid, r.messenger_id, substring(page.digests FROM 16 * q.index + 1 FOR 16),
           get_bit(page.present, q.index) = 1, page.answered_at - r.waited, page.answered_at
      FROM registry.runs_of(page) AS r CROSS JOIN LATERAL generate_series(r.first, r.first + r.queries - 1) AS q(index)
     WHERE page.told IS NULL OR get_bit(page.told, q.index) = 1
$$;
COMMENT ON FUNCTION registry.queries_of IS 'The answers on a page. Queries that were to be asked again are not among them.';

CREATE OR REPLACE VIEW registry.presence_query AS
SELECT q.query_id, q.messenger_id, q.msisdn_digest, q.present, q.received_at, q.answered_at
  FROM registry.journal_page AS p CROSS JOIN LATERAL registry.queries_of(p) AS q;
COMMENT ON VIEW registry.presence_query IS 'The journal of presence queries, one row an answer.';
COMMENT ON COLUMN registry.presence_query.query_id IS 'The id the messenger was told. It leads to its page by the primary key: registry.find_query.';
COMMENT ON COLUMN registry.presence_query.messenger_id IS 'Who asked.';
COMMENT ON COLUMN registry.presence_query.msisdn_digest IS 'Keyed digest of the number.';
COMMENT ON COLUMN registry.presence_query.present IS 'The answer.';
COMMENT ON COLUMN registry.presence_query.received_at IS 'When the first of this messenger''s queries on the page was received.';
COMMENT ON COLUMN registry.presence_query.answered_at IS 'When the answer was decided.';

-- EXECUTE plans for this id alone: one partition is opened, locked and probed. A plan kept for any id would open and lock every partition.
CREATE OR REPLACE FUNCTION registry.find_query(id uuid) RETURNS SETOF registry.presence_query
LANGUAGE plpgsql STABLE ROWS 1
AS $$
BEGIN
    RETURN QUERY EXECUTE $probe$
        SELECT q.query_id, q.messenger_id, q.msisdn_digest, q.present, q.received_at, q.answered_at
          FROM registry.journal_page AS p CROSS JOIN LATERAL registry.queries_of(p) AS q
         WHERE p.page_id = $1 AND q.query_id = $2
    $probe$ USING (left(id::text, 32) || '0000')::uuid, id;
END
$$;
COMMENT ON FUNCTION registry.find_query IS 'One answer by its query''s id: one probe of the primary key of one partition.';
