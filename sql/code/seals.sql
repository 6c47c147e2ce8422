-- Evidence: what the journal says was said then, who looked at a number was allowed to, and what is over is gone.
--
-- The journal is sealed. A worker writes pages, and about once a second has them sealed (seal_pages): one row of registry.seal for up to 5,000
-- pages of its own, which it names from memory, so that no late commit is missed. All workers' seals are one chain, written one at a time:
-- each holds the hash of the one before it, so that nothing behind a seal that somebody wrote down elsewhere (`registryd audit head`) can
-- be changed, removed, added or put in another order without `registryd audit verify` finding it. Everything is hashed inside the
-- database, over what it holds, by functions PostgreSQL brings along:
--
--   page     SHA-256 of page_id, received_at, answered_at, messenger_id, queries, present_count, digest_key, digests, present, each as its
--            type's send function has it (PostgreSQL's binary format), one after another
--   content  SHA-256 of the hashes of a seal's pages in the order of page_ids
--   sha256   SHA-256 of previous, sequence (int8send), sealed_at (timestamptz_send), page_ids (array_send), marks, content, kind and note in UTF-8:
--            all of the row
--
-- What it does not show: a page that was changed before its seal, that is within about a second. A worker that is killed leaves the pages of
-- its last second unsealed; they are reported until the owner adopts them (adopt_unsealed_pages), which stands in the chain with a
-- reason. No key is held here: who owns the database can make the whole chain anew, and a head that is kept elsewhere tells that he did.
--
-- A seal names its pages, so the chain would outgrow the journal. Seals go from the chain's beginning, once the days of their pages are
-- dropped, and the chain says so: a seal of kind 'forgotten' names the last one that went and its hash, which is the `previous` of the first that
-- is left. That one is itself old enough to go, so that the chain can be seen to have lost nothing that the policy kept.

CREATE OR REPLACE FUNCTION registry.page_sha256(page registry.journal_page) RETURNS bytea
LANGUAGE sql IMMUTABLE
AS $$
    SELECT sha256(uuid_send(page.page_id) || timestamptz_send(page.received_at) || timestamptz_send(page.answered_at) || int4send(page.messenger_id)
                  || int4send(page.queries) || int4send(page.present_count) || int2send(page.digest_key) || page.digests || varbit_send(page.present))
$$;
COMMENT ON FUNCTION registry.page_sha256 IS 'A page''s hash. `registryd audit verify` brings its own text of it (sql/queries/audit.sql), because this one can be replaced.';

CREATE OR REPLACE FUNCTION registry.append_seal(kind registry.seal_kind, page_ids uuid[], hashes bytea[], note text) RETURNS bigint
LANGUAGE plpgsql SECURITY DEFINER SET search_path = registry, pg_temp
AS $$
DECLARE
    last registry.seal;
    made registry.seal;
BEGIN
    -- One at a time, until the caller's commit: a chain has one end.
    PERFORM pg_advisory_xact_lock(hashtextextended('registry.seal', 0));
    SELECT s.* INTO last FROM registry.seal AS s ORDER BY s.sequence DESC LIMIT 1;
    made.sequence := coalesce(last.sequence, 0) + 1;
    made.sealed_at := clock_timestamp();
    made.previous := coalesce(last.sha256, decode(repeat('00', 32), 'hex'));
    SELECT coalesce(string_agg(substring(h.hash FROM 1 FOR 4), '' ORDER BY h.place), ''),
           sha256(coalesce(string_agg(h.hash, '' ORDER BY h.place), ''))
      INTO made.marks, made.content FROM unnest(hashes) WITH ORDINALITY AS h(hash, place);
    made.sha256 := sha256(made.previous || int8send(made.sequence) || timestamptz_send(made.sealed_at) || array_send(append_seal.page_ids)
                          || made.marks || made.content || convert_to(append_seal.kind::text || append_seal.note, 'UTF8'));
    INSERT INTO registry.seal (sequence, sealed_at, kind, note, page_ids, marks, content, previous, sha256)
    VALUES (made.sequence, made.sealed_at, append_seal.kind, append_seal.note, append_seal.page_ids, made.marks, made.content, made.previous, made.sha256);
    RETURN made.sequence;
END
$$;
COMMENT ON FUNCTION registry.append_seal IS 'Appends one seal to the chain and returns its sequence; the next one waits for this transaction''s end.';

CREATE OR REPLACE FUNCTION registry.seal_pages(written uuid[]) RETURNS uuid[]
LANGUAGE plpgsql SECURITY DEFINER SET search_path = registry, pg_temp SET jit = off
AS $$
DECLARE
    found  uuid[];
    hashes bytea[];
BEGIN
    -- Planned for these very ids (EXECUTE), so that no partition is opened but theirs.
    EXECUTE format('SELECT array_agg(p.page_id ORDER BY p.page_id), array_agg(registry.page_sha256(p) ORDER BY p.page_id)
                      FROM (SELECT DISTINCT u.page_id FROM unnest($1) AS u(page_id)) AS w
                      JOIN registry.journal_page AS p ON p.page_id = w.page_id AND p.page_id BETWEEN %L AND %L',
                   (SELECT u.id FROM unnest(written) AS u(id) ORDER BY u.id LIMIT 1),
                   (SELECT u.id FROM unnest(written) AS u(id) ORDER BY u.id DESC LIMIT 1))
       INTO found, hashes USING written;
    IF found IS NULL THEN
        RETURN '{}';
    END IF;
    PERFORM registry.append_seal('pages', found, hashes, '');
    RETURN found;
END
$$;
COMMENT ON FUNCTION registry.seal_pages IS 'Seals those of the pages (5,000 at most) that are committed, and returns their ids; the others may be named again. A page that is sealed twice is none the worse.';

CREATE OR REPLACE FUNCTION registry.adopt_unsealed_pages(reason text) RETURNS bigint
LANGUAGE plpgsql SECURITY DEFINER SET search_path = registry, pg_temp SET jit = off
AS $$
DECLARE
    began   timestamptz := (SELECT s.sealed_at FROM registry.seal AS s ORDER BY s.sequence LIMIT 1);
    found   uuid[];
    hashes  bytea[];
    adopted bigint := 0;
BEGIN
    LOOP
        SELECT array_agg(u.page_id ORDER BY u.page_id), array_agg(u.hash ORDER BY u.page_id) INTO found, hashes
          FROM (SELECT p.page_id, registry.page_sha256(p) AS hash
                  FROM registry.journal_page AS p
                  LEFT JOIN (SELECT unnest(s.page_ids) AS page_id FROM registry.seal AS s) AS sealed ON sealed.page_id = p.page_id
                 WHERE sealed.page_id IS NULL AND registry.time_of(p.page_id) >= began
                   AND registry.time_of(p.page_id) NOT BETWEEN now() - interval '1 minute' AND now() + interval '1 day'
                 ORDER BY p.page_id LIMIT 5000) AS u;
        IF found IS NULL THEN
            RETURN adopted;
        END IF;
        PERFORM registry.append_seal('adopted', found, hashes, reason);
        adopted := adopted + cardinality(found);
    END LOOP;
END
$$;
COMMENT ON FUNCTION registry.adopt_unsealed_pages IS 'For the owner, after a worker was killed: seals the pages that no worker did, with the reason in the chain, and returns how many. Look at them first: an inserted page looks the same.';

CREATE OR REPLACE FUNCTION registry.forget_seals(batch integer) RETURNS bigint
LANGUAGE plpgsql SECURITY DEFINER SET search_path = registry, pg_temp SET timezone = 'UTC'
AS $$
DECLARE
    over      date := registry.kept_from('journal_page');
    old       registry.seal;
    stays     registry.seal;
    forgotten bigint;
BEGIN
    IF over IS NULL OR NOT pg_try_advisory_xact_lock(hashtextextended('registry.retention', 0))
       OR EXISTS (SELECT FROM registry.day_partition AS p WHERE p.family = 'journal_page' AND p.day < over) THEN
        RETURN 0;
    END IF;
    FOR old IN SELECT s.* FROM registry.seal AS s ORDER BY s.sequence LIMIT batch + 1 LOOP
        EXIT WHEN old.sealed_at >= over - 1 OR old.page_ids[cardinality(old.page_ids)] >= registry.first_id_of(over);
        stays := old;
    END LOOP;
    DELETE FROM registry.seal AS s WHERE s.sequence < stays.sequence;
    GET DIAGNOSTICS forgotten = ROW_COUNT;
    IF forgotten > 0 THEN
        PERFORM registry.append_seal('forgotten', '{}', '{}', format('%s %s', stays.sequence - 1, encode(stays.previous, 'hex')));
    END IF;
    RETURN forgotten;
END
$$;
COMMENT ON FUNCTION registry.forget_seals IS 'Deletes seals, a batch at most, from the chain''s beginning, whose pages the policy has let go for more than a day; a seal says so. Returns how many.';
