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
--   content  SHA-256 of the hashes of a seal's pages in the order of page_ids, then its note in UTF-8
--   sha256   SHA-256 of previous, sequence (int8send), sealed_at (timestamptz_send), the number of pages (int4send), content, kind in UTF-8
--
-- What it does not show: a page that was changed before its seal, that is within about a second. A worker that is killed leaves the pages of
-- its last second unsealed; they are reported until the owner adopts them (adopt_unsealed_pages), which stands in the chain with a
-- reason. No key is held here: who owns the database can make the whole chain anew, and a head that is kept elsewhere tells that he did.

CREATE TYPE registry.seal_kind AS ENUM ('begin', 'pages', 'adopted', 'retention');

CREATE TABLE registry.seal (
    sequence  bigint PRIMARY KEY CHECK (sequence >= 1),
    sealed_at timestamptz NOT NULL,
    kind      registry.seal_kind NOT NULL,
    note      text NOT NULL,
    page_ids  uuid[] NOT NULL CHECK (cardinality(page_ids) <= 5000),
    marks     bytea NOT NULL CHECK (octet_length(marks) = 4 * cardinality(page_ids)),
    content   bytea NOT NULL CHECK (octet_length(content) = 32),
    previous  bytea NOT NULL CHECK (octet_length(previous) = 32),
    sha256    bytea NOT NULL CHECK (octet_length(sha256) = 32),
    CONSTRAINT pages_are_sealed_or_adopted CHECK ((kind IN ('pages', 'adopted')) = (page_ids <> '{}')),
    CONSTRAINT what_is_not_routine_says_why CHECK ((kind = 'pages') = (note = ''))
);
COMMENT ON TABLE registry.seal IS 'The hash chain over the journal, append-only: kept when the pages are gone, so that what was kept of the chain elsewhere still fits.';
COMMENT ON COLUMN registry.seal.sequence IS 'Counts the seals from 1, without a gap.';
COMMENT ON COLUMN registry.seal.sealed_at IS 'When it was written.';
COMMENT ON COLUMN registry.seal.kind IS 'begin (the first), pages (what a worker wrote in about a second), adopted (pages that no worker had sealed) or retention (pages went by the policy).';
COMMENT ON COLUMN registry.seal.note IS 'adopted: why. retention: the day (UTC) before which pages may be gone.';
COMMENT ON COLUMN registry.seal.page_ids IS 'The pages it covers, in the order of their ids.';
COMMENT ON COLUMN registry.seal.marks IS 'The first four bytes of each page''s hash: they tell which page was changed; content proves it.';
COMMENT ON COLUMN registry.seal.content IS 'SHA-256 over the pages'' hashes and the note.';
COMMENT ON COLUMN registry.seal.previous IS 'sha256 of the seal before; zeros in the first.';
COMMENT ON COLUMN registry.seal.sha256 IS 'SHA-256 over everything here but marks and page_ids, which content binds.';
CREATE TRIGGER refuse_truncate BEFORE TRUNCATE ON registry.seal FOR EACH STATEMENT EXECUTE FUNCTION registry.refuse_truncate();

CREATE FUNCTION registry.page_sha256(page registry.journal_page) RETURNS bytea
LANGUAGE sql IMMUTABLE
AS $$
    SELECT sha256(uuid_send(page.page_id) || timestamptz_send(page.received_at) || timestamptz_send(page.answered_at) || int4send(page.messenger_id)
                  || int4send(page.queries) || int4send(page.present_count) || int2send(page.digest_key) || page.digests || varbit_send(page.present))
$$;
COMMENT ON FUNCTION registry.page_sha256 IS 'A page''s hash. `registryd audit verify` brings its own text of it (sql/queries/audit.sql), because this one can be replaced.';

CREATE FUNCTION registry.append_seal(kind registry.seal_kind, page_ids uuid[], hashes bytea[], note text) RETURNS bigint
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
           sha256(coalesce(string_agg(h.hash, '' ORDER BY h.place), '') || convert_to(append_seal.note, 'UTF8'))
      INTO made.marks, made.content FROM unnest(hashes) WITH ORDINALITY AS h(hash, place);
    made.sha256 := sha256(made.previous || int8send(made.sequence) || timestamptz_send(made.sealed_at) || int4send(cardinality(page_ids))
                          || made.content || convert_to(append_seal.kind::text, 'UTF8'));
    INSERT INTO registry.seal (sequence, sealed_at, kind, note, page_ids, marks, content, previous, sha256)
    VALUES (made.sequence, made.sealed_at, append_seal.kind, append_seal.note, append_seal.page_ids, made.marks, made.content, made.previous, made.sha256);
    RETURN made.sequence;
END
$$;
COMMENT ON FUNCTION registry.append_seal IS 'Appends one seal to the chain and returns its sequence; the next one waits for this transaction''s end.';

CREATE FUNCTION registry.seal_pages(written uuid[]) RETURNS uuid[]
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

CREATE FUNCTION registry.adopt_unsealed_pages(reason text) RETURNS bigint
LANGUAGE plpgsql SECURITY DEFINER SET search_path = registry, pg_temp SET jit = off
AS $$
DECLARE
    began   timestamptz := (SELECT s.sealed_at FROM registry.seal AS s WHERE s.sequence = 1);
    found   uuid[];
    hashes  bytea[];
    adopted bigint := 0;
BEGIN
    LOOP
        SELECT array_agg(u.page_id ORDER BY u.page_id), array_agg(u.hash ORDER BY u.page_id) INTO found, hashes
          FROM (SELECT p.page_id, registry.page_sha256(p) AS hash
                  FROM registry.journal_page AS p
                  LEFT JOIN (SELECT unnest(s.page_ids) AS page_id FROM registry.seal AS s) AS sealed ON sealed.page_id = p.page_id
                 WHERE sealed.page_id IS NULL AND registry.time_of(p.page_id) BETWEEN began AND now() - interval '1 minute'
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

-- As before; when pages of the journal go, a seal says so, and from when on they are still there.
CREATE OR REPLACE FUNCTION registry.drop_day(family text) RETURNS date
LANGUAGE plpgsql SECURITY DEFINER SET search_path = registry, pg_temp SET timezone = 'UTC' SET lock_timeout = '50ms'
AS $$
DECLARE
    over date := registry.kept_from(family);
    kept registry.retention;
    gone registry.day_partition;
    figures bigint;
BEGIN
    SELECT r.* INTO kept FROM registry.retention AS r WHERE r.family = drop_day.family;
    IF NOT FOUND OR over IS NULL OR NOT pg_try_advisory_xact_lock(hashtextextended('registry.retention', 0)) THEN
        RETURN NULL;
    END IF;
    -- What lies in the default partition goes as a day does, with its figures kept.
    EXECUTE registry.counting(family, format('DELETE FROM registry.%I WHERE %I < %L RETURNING *', family || '_default', kept.key,
                                             registry.first_key_of(kept.key, over)));
    GET DIAGNOSTICS figures = ROW_COUNT;
    IF family = 'journal_page' AND figures > 0 THEN
        PERFORM registry.append_seal('retention', '{}', '{}', to_char(over, 'YYYY-MM-DD'));
    END IF;
    SELECT p.* INTO gone FROM registry.day_partition AS p
     WHERE p.family = drop_day.family AND p.day < over AND p.day <= kept.closed_through
     ORDER BY p.day LIMIT 1;
    IF NOT FOUND THEN
        RETURN NULL;
    END IF;
    FOR attempt IN 1..8 LOOP
        BEGIN
            IF family = 'journal_page' THEN
                PERFORM registry.append_seal('retention', '{}', '{}', to_char(over, 'YYYY-MM-DD'));
            END IF;
            -- The partition first, which no query needs: the family is then locked for no longer than the drop itself takes.
            EXECUTE format('LOCK TABLE %s IN ACCESS EXCLUSIVE MODE', gone.partition);
            EXECUTE format('DROP TABLE %s', gone.partition);
            RETURN gone.day;
        EXCEPTION WHEN lock_not_available THEN
            PERFORM pg_sleep(0.1 + 0.2 * random());
        END;
    END LOOP;
    RETURN NULL;
END
$$;

SELECT registry.append_seal('begin', '{}', '{}', 'pages from here on are sealed');

GRANT EXECUTE ON FUNCTION registry.seal_pages(uuid[]) TO registryd_app;
