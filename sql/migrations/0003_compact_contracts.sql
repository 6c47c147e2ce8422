-- A hundred million contracts in 120 bytes each, indexes included.
--
-- A row of nine columns, two of them NULL, needs a two-byte map of its NULLs, which alignment makes eight; with three enums of four
-- bytes it came to 125 bytes with its share of the indexes. The two columns that are only ever read beside status, holder and end_user,
-- are therefore one byte each: 117.
--
-- Words stay words where they are written and compared: PostgreSQL takes the first letter of a literal for a "char", and within each
-- column the first letters differ, so that holder = 'organisation' and SET end_user = 'registered' go on meaning what they say. Read, they
-- are letters; registry.holder_word and registry.end_user_word spell them out.
--
-- This rewrites the table under an exclusive lock (a few minutes for 100 million rows): run it before the daemon serves.

DROP FUNCTION registry.is_present(registry.contract_status, registry.holder, registry.end_user, registry.organisation_rule, boolean);
ALTER TYPE registry.holder RENAME TO holder_in_four_bytes;
ALTER TYPE registry.end_user RENAME TO end_user_in_four_bytes;

CREATE DOMAIN registry.holder AS "char" CHECK (VALUE IN ('individual', 'sole_trader', 'organisation'));
CREATE DOMAIN registry.end_user AS "char" CHECK (VALUE IN ('not_required', 'registered', 'unregistered'));
COMMENT ON DOMAIN registry.holder IS 'individual, sole_trader or organisation, kept as its first letter.';
COMMENT ON DOMAIN registry.end_user IS 'not_required, registered or unregistered, kept as its first letter.';

ALTER TABLE registry.contract
    DROP CONSTRAINT individuals_are_their_own_end_user,
    ALTER COLUMN holder TYPE registry.holder USING left(holder::text, 1)::"char"::registry.holder,
    ALTER COLUMN end_user TYPE registry.end_user USING left(end_user::text, 1)::"char"::registry.end_user,
    ADD CONSTRAINT individuals_are_their_own_end_user CHECK ((holder = 'individual') = (end_user = 'not_required'));
DROP TYPE registry.holder_in_four_bytes, registry.end_user_in_four_bytes;
COMMENT ON COLUMN registry.contract.holder IS 'Who holds the contract, as a first letter (write the word): decides, with policy.organisation_rule, whether an end user must be registered.';
COMMENT ON COLUMN registry.contract.end_user IS 'Whether the person who uses an organisation''s number is registered, as a first letter (write the word); not_required for individuals.';

CREATE FUNCTION registry.holder_word(holder registry.holder) RETURNS text
LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE
AS $$ SELECT CASE holder WHEN 'i' THEN 'individual' WHEN 's' THEN 'sole_trader' ELSE 'organisation' END $$;
COMMENT ON FUNCTION registry.holder_word IS 'The word that a contract''s holder is the first letter of.';

CREATE FUNCTION registry.end_user_word(end_user registry.end_user) RETURNS text
LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE
AS $$ SELECT CASE end_user WHEN 'n' THEN 'not_required' WHEN 'r' THEN 'registered' ELSE 'unregistered' END $$;
COMMENT ON FUNCTION registry.end_user_word IS 'The word that a contract''s end_user is the first letter of.';

CREATE FUNCTION registry.is_present(
    status registry.contract_status, end_user registry.end_user, organisation_rule registry.organisation_rule, suspended_is_present boolean
) RETURNS boolean
LANGUAGE sql IMMUTABLE PARALLEL SAFE
AS $$
    SELECT (status = 'active' OR (status = 'suspended' AND suspended_is_present))
       AND (organisation_rule = 'subscriber' OR end_user <> 'unregistered')
$$;
COMMENT ON FUNCTION registry.is_present IS 'Who counts as present: the rule that answers every query. The same rule in words: registryd/domain/presence.py; a test holds the two together.';

REVOKE ALL ON FUNCTION registry.holder_word, registry.end_user_word, registry.is_present FROM PUBLIC;
GRANT EXECUTE ON FUNCTION registry.holder_word, registry.end_user_word, registry.is_present TO registryd_app;
