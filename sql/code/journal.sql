-- The journal as one row a query. An id leads to its page by the primary key: registry.find_query.
CREATE OR REPLACE VIEW registry.presence_query AS
SELECT (left(p.page_id::text, 32) || lpad(to_hex(q.index), 4, '0'))::uuid AS query_id,
       p.messenger_id,
       substring(p.digests FROM 16 * q.index + 1 FOR 16) AS msisdn_digest,
       get_bit(p.present, q.index) = 1 AS present,
       p.received_at,
       p.answered_at
  FROM registry.journal_page AS p
 CROSS JOIN LATERAL generate_series(0, p.queries - 1) AS q(index);
COMMENT ON VIEW registry.presence_query IS 'The journal of presence queries, one row a query.';
COMMENT ON COLUMN registry.presence_query.query_id IS 'The id the messenger was told.';
COMMENT ON COLUMN registry.presence_query.messenger_id IS 'Who asked.';
COMMENT ON COLUMN registry.presence_query.msisdn_digest IS 'Keyed digest of the number.';
COMMENT ON COLUMN registry.presence_query.present IS 'The answer.';
COMMENT ON COLUMN registry.presence_query.received_at IS 'When the query''s page was opened.';
COMMENT ON COLUMN registry.presence_query.answered_at IS 'When the answer was decided.';

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
