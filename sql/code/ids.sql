CREATE OR REPLACE FUNCTION registry.id_at(at timestamptz) RETURNS uuid
LANGUAGE sql VOLATILE PARALLEL SAFE
AS $$
    SELECT encode(set_bit(set_bit(
        overlay(uuid_send(gen_random_uuid()) PLACING substring(int8send(floor(extract(epoch FROM at) * 1000)::bigint) FROM 3) FROM 1 FOR 6),
        52, 1), 53, 1), 'hex')::uuid
$$;
COMMENT ON FUNCTION registry.id_at IS 'A new UUID that begins with the time in milliseconds (RFC 9562 version 7).';

CREATE OR REPLACE FUNCTION registry.time_of(id uuid) RETURNS timestamptz
LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE
AS $$ SELECT 'epoch'::timestamptz + ('x' || translate(left(id::text, 13), '-', ''))::bit(48)::bigint * interval '1 millisecond' $$;
COMMENT ON FUNCTION registry.time_of IS 'The time that a UUID of registry.id_at, or a query''s id, begins with.';

CREATE OR REPLACE FUNCTION registry.first_id_at(at timestamptz) RETURNS uuid
LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE
AS $$ SELECT (lpad(to_hex((extract(epoch FROM at) * 1000)::bigint), 12, '0') || repeat('0', 20))::uuid $$;
COMMENT ON FUNCTION registry.first_id_at IS 'The lowest time-ordered id of a time: where a window or a partition of the journal begins.';
