-- Rules of contracts. Each contract says when the registry last learned something of it, so that an older snapshot does not undo that. A number's
-- live contract has its highest generation: events, snapshots and queries take the highest one for the present contract.

CREATE OR REPLACE FUNCTION registry.refuse_buried_contracts() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = registry, pg_temp
AS $$
DECLARE
    buried  record;
    rows    bigint;
    highest smallint;
BEGIN
    -- A first snapshot brings each number once: then there is nothing to join, which would take as long as the rest of the load.
    EXECUTE 'SELECT count(*), max(generation) FROM added' INTO rows, highest;
    IF rows > 10000 AND highest = 1 AND NOT EXISTS (SELECT FROM registry.contract AS c WHERE c.generation > 1) THEN
        RETURN NULL;
    END IF;
    -- EXECUTE plans it for this statement alone: a plan kept from a statement of one row takes quadratic time for a million. So does a LIMIT
    -- without an ORDER BY: the planner then hopes to meet a row early, and there is none.
    EXECUTE $look$
        SELECT a.ended_at IS NULL AS is_live, greatest(a.generation, c.generation) AS above
          FROM added AS a
          JOIN registry.contract AS c ON c.msisdn = a.msisdn
         WHERE CASE WHEN a.ended_at IS NULL THEN c.generation > a.generation ELSE c.ended_at IS NULL AND c.generation < a.generation END
         ORDER BY above DESC LIMIT 1
    $look$ INTO buried;
    IF buried.is_live THEN
        RAISE EXCEPTION 'a live contract is its number''s last (generation % exists)', buried.above
            USING ERRCODE = 'restrict_violation', HINT = format('Insert it as generation %s.', buried.above + 1);
    ELSIF buried.above IS NOT NULL THEN
        RAISE EXCEPTION 'this number has a live contract of a lower generation'
            USING ERRCODE = 'restrict_violation', HINT = 'A contract that ended before the live one began has a lower generation than that.';
    END IF;
    RETURN NULL;
END
$$;
COMMENT ON FUNCTION registry.refuse_buried_contracts IS 'Refuses contracts that would put a live contract of a number below another of its generations.';

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
    -- registry.apply_snapshot, which runs as the owner, writes the snapshot's time. It asks for NULL by writing -infinity, and for the time that is
    -- there by infinity, because the same time as before looks like an UPDATE that names none. Nobody else's UPDATE can choose a time.
    NEW.recorded_at := CASE WHEN current_user = 'registryd_owner' AND NEW.recorded_at IS DISTINCT FROM OLD.recorded_at
                            THEN CASE NEW.recorded_at WHEN 'infinity' THEN OLD.recorded_at ELSE nullif(NEW.recorded_at, '-infinity') END
                            ELSE now() END;
    RETURN NEW;
END
$$;
COMMENT ON FUNCTION registry.stamp_recorded IS 'Writes down when a contract was changed, so that no snapshot taken before then undoes it.';

CREATE OR REPLACE FUNCTION registry.refuse_deleting_bound_contract() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = registry, pg_temp
AS $$
BEGIN
    IF EXISTS (SELECT FROM registry.binding AS b WHERE b.msisdn = OLD.msisdn AND b.generation = OLD.generation) THEN
        RAISE EXCEPTION 'this contract has bindings and cannot be deleted (generation %)', OLD.generation
            USING ERRCODE = 'restrict_violation',
                  HINT = 'End it instead: UPDATE registry.contract SET ended_at = now() WHERE …; its messengers are then notified.';
    ELSIF OLD.ended_at IS NULL AND current_setting('transaction_isolation') <> 'read committed' THEN
        RAISE EXCEPTION 'live contracts are deleted in READ COMMITTED transactions only'
            USING ERRCODE = 'invalid_transaction_state',
                  HINT = 'A stricter isolation would not see a binding that was recorded meanwhile, and its messenger would never be notified.';
    END IF;
    RETURN OLD;
END
$$;
COMMENT ON FUNCTION registry.refuse_deleting_bound_contract IS 'Refuses to delete a contract with bindings: the duty to notify, or its proof, would be lost.';
