-- Safeguards around what persons do: the operator's ranges, an unmasked look, a report that goes on and on.
--
-- Ranges that the regulator's register brought are told from those made by hand (numbers ported in), so that its next edition replaces its
-- own and no others.

CREATE TYPE registry.range_source AS ENUM ('register', 'hand');

ALTER TABLE registry.numbering_range ADD COLUMN source registry.range_source NOT NULL DEFAULT 'hand';
COMMENT ON COLUMN registry.numbering_range.source IS 'register: an import of the regulator''s register wrote the row, and the next one replaces it. hand: SQL did, or a list of the operator''s own; a register leaves it as it is.';
-- What an import of the register has always noted: the operator's name and taxpayer number.
UPDATE registry.numbering_range SET source = 'register' WHERE note LIKE '%, ИНН %';

-- ---------------------------------------------------------------------------------------------------------------------------------
-- A request that is refused leaves its number in no log

-- What a CHECK or NOT NULL of the table refuses, PostgreSQL logs with the whole row: so it is refused before it is one.
CREATE OR REPLACE FUNCTION breakglass.request(number bigint, reason text, digest_keys smallint[] DEFAULT '{}', digests bytea DEFAULT '') RETURNS bigint
LANGUAGE plpgsql SECURITY DEFINER SET search_path = registry, pg_temp
AS $$
BEGIN
    IF number IS NULL OR number NOT BETWEEN 10000 AND 999999999999999 THEN
        RAISE EXCEPTION 'a number has 5 to 15 digits' USING ERRCODE = 'check_violation', HINT = 'E.164, without the plus.';
    ELSIF reason IS NULL OR length(btrim(reason)) < 10 THEN
        RAISE EXCEPTION 'a reason has ten characters at least' USING ERRCODE = 'check_violation',
            HINT = 'Say why: who approves the request and who audits it reads that.';
    ELSIF digest_keys IS NULL OR digests IS NULL OR octet_length(digests) <> 16 * cardinality(digest_keys) THEN
        RAISE EXCEPTION 'each digest key has one digest of 16 bytes' USING ERRCODE = 'check_violation',
            HINT = '`registryd breakglass request` makes them.';
    END IF;
    RETURN registry.append_breakglass(NULL, 'requested', number, reason, digest_keys, digests);
END
$$;

-- ---------------------------------------------------------------------------------------------------------------------------------
-- A person's report does not go on for ever either

-- Without these, which sql/roles.sql grants, the owner sees no person's transaction and may end none.
DO $roles$
BEGIN
    IF NOT pg_has_role('registryd_owner', 'pg_signal_backend', 'USAGE') OR NOT pg_has_role('registryd_owner', 'pg_read_all_stats', 'USAGE') THEN
        RAISE EXCEPTION 'registryd_owner may not end the sessions of those who are granted registryd_report'
            USING ERRCODE = 'insufficient_privilege', HINT = 'Run sql/roles.sql again as a superuser, and then this migration.';
    END IF;
END
$roles$;

CREATE OR REPLACE FUNCTION registry.end_long_reports(longest interval) RETURNS bigint
LANGUAGE sql VOLATILE SECURITY DEFINER SET search_path = registry, pg_temp
AS $$
    SELECT count(*) FILTER (WHERE pg_terminate_backend(a.pid))
      FROM pg_catalog.pg_stat_activity AS a
     WHERE (a.usename = 'registryd_report'
            -- A superuser counts as a member of every role, and so of the owner. A person's sessions elsewhere are no reports.
            OR (a.datname = current_database() AND pg_has_role(a.usesysid, 'registryd_report', 'MEMBER')
                AND NOT pg_has_role(a.usesysid, 'registryd_owner', 'MEMBER') AND NOT pg_has_role(a.usesysid, 'registryd_app', 'MEMBER')))
       AND (a.xact_start < clock_timestamp() - longest
            OR EXISTS (SELECT FROM pg_catalog.pg_locks AS l WHERE l.pid = a.pid AND l.locktype = 'advisory'))
$$;
COMMENT ON FUNCTION registry.end_long_reports IS 'Ends the sessions of registryd_report, and in this database of those who are granted it, whose transaction goes on for longer, or that hold an advisory lock, which the daemon''s housekeeping might wait for: a role may set its own statement_timeout off. Spares the owner''s and the daemon''s. Returns how many.';
