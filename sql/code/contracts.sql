-- What the registry knows of a contract is as old as what told it, and a number's live contract is its last.
--
-- A snapshot tells what was true at its own time, however late it is imported: what it writes is recorded as learned then, so that the
-- next snapshot may change it. And no contract, ended or live, stands above a live one of its number: events, snapshots and queries
-- all take the highest generation for the present one.

CREATE OR REPLACE FUNCTION registry.explain_second_live_contract() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = registry, pg_temp
AS $$
DECLARE
    live smallint;
BEGIN
    SELECT c.generation INTO live FROM registry.contract AS c WHERE c.msisdn = NEW.msisdn AND c.ended_at IS NULL;
    IF FOUND THEN
        RAISE EXCEPTION 'this number has a live contract already (generation %)', live
            USING ERRCODE = 'unique_violation', TABLE = 'contract', SCHEMA = 'registry', CONSTRAINT = 'contract_live',
                  HINT = 'End it first (UPDATE registry.contract SET ended_at = now(), end_reason = ''holder_changed'' WHERE …), then insert the next generation.';
    END IF;
    RETURN NEW;
END
$$;
COMMENT ON FUNCTION registry.explain_second_live_contract IS 'The unique index contract_live refuses a second live contract; this says what to do about it.';

CREATE OR REPLACE FUNCTION registry.refuse_buried_contract() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = registry, pg_temp
AS $$
DECLARE
    above smallint;
BEGIN
    IF NEW.ended_at IS NULL THEN
        SELECT max(c.generation) INTO above FROM registry.contract AS c WHERE c.msisdn = NEW.msisdn AND c.generation > NEW.generation;
        IF above IS NOT NULL THEN
            RAISE EXCEPTION 'a live contract is its number''s last (generation % exists)', above
                USING ERRCODE = 'restrict_violation', HINT = format('Insert it as generation %s.', above + 1);
        END IF;
    ELSIF EXISTS (SELECT FROM registry.contract AS c WHERE c.msisdn = NEW.msisdn AND c.ended_at IS NULL AND c.generation < NEW.generation) THEN
        RAISE EXCEPTION 'this number has a live contract of a lower generation'
            USING ERRCODE = 'restrict_violation', HINT = 'A contract that ended before the live one began has a lower generation than that.';
    END IF;
    RETURN NEW;
END
$$;
COMMENT ON FUNCTION registry.refuse_buried_contract IS 'A number''s live contract has its highest generation. A bulk load (registry.bulk_load) is spared this row by row, and looks for it once.';

CREATE OR REPLACE FUNCTION registry.refuse_renumbering() RETURNS trigger
LANGUAGE plpgsql
AS $$
BEGIN
    RAISE EXCEPTION 'a contract keeps its number and generation'
        USING ERRCODE = 'restrict_violation',
              HINT = 'End this contract and insert one for the other number: bindings belong to a number and generation.';
END
$$;
COMMENT ON FUNCTION registry.refuse_renumbering IS 'Bindings and notifications name a contract by number and generation, so these never change.';

CREATE OR REPLACE FUNCTION registry.stamp_recorded() RETURNS trigger
LANGUAGE plpgsql
AS $$
BEGIN
    NEW.recorded_at := coalesce(nullif(current_setting('registry.learned_at', true), '')::timestamptz, now());
    RETURN NEW;
END
$$;
COMMENT ON FUNCTION registry.stamp_recorded IS 'A change is newer than any snapshot taken before it: it says when the registry learned of it. A snapshot''s own changes were learned when it was taken (registry.learned_at, for its transaction).';

CREATE OR REPLACE FUNCTION registry.refuse_deleting_bound_contract() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = registry, pg_temp
AS $$
BEGIN
    IF EXISTS (SELECT FROM registry.binding AS b WHERE b.msisdn = OLD.msisdn AND b.generation = OLD.generation) THEN
        RAISE EXCEPTION 'this contract has bindings and cannot be deleted (generation %)', OLD.generation
            USING ERRCODE = 'restrict_violation',
                  HINT = 'End it instead: UPDATE registry.contract SET ended_at = now() WHERE …; its messengers are then notified.';
    END IF;
    RETURN OLD;
END
$$;
COMMENT ON FUNCTION registry.refuse_deleting_bound_contract IS 'Deleting a bound contract would lose the duty to notify, or its proof.';
