-- Change requests: a messenger asks for another endpoint or another signing secret, and a person confirms it. waiting -> confirmed | refused |
-- superseded, or its 7 days are over.
--
-- Both functions lock the messenger first, so that of two requests, or of a request and a decision, one sees what the other did.

CREATE OR REPLACE VIEW registry.change AS
SELECT r.change_id, r.messenger_id, m.name AS messenger, r.kind,
       CASE WHEN r.outcome IS NOT NULL THEN r.outcome::text WHEN r.expires_at <= now() THEN 'expired' ELSE 'waiting' END AS state,
       r.endpoint_url, m.endpoint_url AS present_url, r.requested_at, r.requested_by, r.expires_at, r.decided_at, r.decided_by, r.reason
  FROM registry.change_request AS r JOIN registry.messenger AS m ON m.messenger_id = r.messenger_id;
COMMENT ON VIEW registry.change IS 'Change requests with their state. URLs are whole and may hold secrets: report from report.change_request.';
COMMENT ON COLUMN registry.change.change_id IS 'The request.';
COMMENT ON COLUMN registry.change.messenger_id IS 'Who asks.';
COMMENT ON COLUMN registry.change.messenger IS 'Its name.';
COMMENT ON COLUMN registry.change.kind IS 'endpoint or webhook_secret.';
COMMENT ON COLUMN registry.change.state IS 'waiting, confirmed, refused, superseded or expired.';
COMMENT ON COLUMN registry.change.endpoint_url IS 'The endpoint that it wants.';
COMMENT ON COLUMN registry.change.present_url IS 'The endpoint that it has now.';
COMMENT ON COLUMN registry.change.requested_at IS 'When it asked.';
COMMENT ON COLUMN registry.change.requested_by IS 'The key that asked.';
COMMENT ON COLUMN registry.change.expires_at IS 'From when on nobody can confirm it.';
COMMENT ON COLUMN registry.change.decided_at IS 'When it was decided.';
COMMENT ON COLUMN registry.change.decided_by IS 'By whom.';
COMMENT ON COLUMN registry.change.reason IS 'Why it was refused.';

CREATE OR REPLACE FUNCTION registry.request_change(messenger integer, wanted registry.change_kind, url text, sealed bytea, sealed_to bytea, asked_by text, a_day integer)
RETURNS TABLE (outcome text, change_id bigint, requested_at timestamptz, expires_at timestamptz)
LANGUAGE plpgsql SECURITY DEFINER SET search_path = registry, pg_temp
AS $$
#variable_conflict use_column
DECLARE
    present text;
BEGIN
    SELECT m.endpoint_url INTO present FROM registry.messenger AS m WHERE m.messenger_id = messenger FOR NO KEY UPDATE;
    IF wanted = 'endpoint' AND url = present THEN
        RETURN QUERY SELECT 'same', NULL::bigint, NULL::timestamptz, NULL::timestamptz;
        RETURN;
    END IF;
    IF wanted = 'endpoint' THEN
        RETURN QUERY SELECT 'waiting', r.change_id, r.requested_at, r.expires_at FROM registry.change_request AS r
                      WHERE r.messenger_id = messenger AND r.kind = wanted AND r.endpoint_url = url AND r.outcome IS NULL AND r.expires_at > now()
                        AND NOT EXISTS (SELECT FROM registry.messenger_key AS k WHERE k.key_id = r.requested_by AND k.revoked_at IS NOT NULL);
        IF FOUND THEN
            RETURN;
        END IF;
    END IF;
    IF (SELECT count(*) FROM registry.change_request AS r WHERE r.messenger_id = messenger AND r.requested_at > now() - interval '1 day') >= a_day THEN
        RETURN QUERY SELECT 'often', NULL::bigint, NULL::timestamptz, NULL::timestamptz;
        RETURN;
    END IF;
    UPDATE registry.change_request AS r SET outcome = 'superseded', decided_at = now(), decided_by = 'messenger', ciphertext = NULL
     WHERE r.messenger_id = messenger AND r.kind = wanted AND r.outcome IS NULL;
    RETURN QUERY
    INSERT INTO registry.change_request AS r (messenger_id, kind, endpoint_url, ciphertext, public_key, requested_by)
    VALUES (messenger, wanted, url, sealed, sealed_to, asked_by)
    RETURNING 'asked', r.change_id, r.requested_at, r.expires_at;
END
$$;
COMMENT ON FUNCTION registry.request_change IS 'A messenger asks for a change. outcome: asked, which supersedes a former request of its kind; waiting (the same endpoint is asked for already); same (it is its endpoint); often (a_day of them within 24 hours).';

CREATE OR REPLACE FUNCTION registry.decide_change(change bigint, verdict registry.change_outcome, who text, why text, overlap interval) RETURNS text
LANGUAGE plpgsql SECURITY DEFINER SET search_path = registry, pg_temp
AS $$
#variable_conflict use_column
DECLARE
    asked registry.change_request;
BEGIN
    PERFORM FROM registry.messenger AS m
      WHERE m.messenger_id = (SELECT r.messenger_id FROM registry.change_request AS r WHERE r.change_id = change) FOR NO KEY UPDATE;
    SELECT r.* INTO asked FROM registry.change_request AS r WHERE r.change_id = change FOR UPDATE;
    IF NOT FOUND THEN
        RETURN 'unknown';
    ELSIF asked.outcome IS NOT NULL THEN
        RETURN asked.outcome;
    ELSIF asked.expires_at <= now() THEN
        RETURN 'expired';
    ELSIF verdict = 'confirmed' AND EXISTS (SELECT FROM registry.messenger_key AS k WHERE k.key_id = asked.requested_by AND k.revoked_at IS NOT NULL) THEN
        RETURN 'revoked';
    ELSIF verdict = 'confirmed' AND asked.kind = 'webhook_secret'
          AND NOT EXISTS (SELECT FROM registry.sealing_key AS k WHERE k.public_key = asked.public_key) THEN
        RETURN 'stale';
    END IF;
    IF verdict = 'confirmed' AND asked.kind = 'endpoint' THEN
        UPDATE registry.messenger AS m SET endpoint_url = asked.endpoint_url WHERE m.messenger_id = asked.messenger_id;
        -- A new endpoint is probed at once, whatever the former one did. Its failures stay, so that it comes back through one notification.
        UPDATE registry.lane AS l SET gate_until = NULL, look_back_at = now() WHERE l.messenger_id = asked.messenger_id;
    ELSIF verdict = 'confirmed' THEN
        UPDATE registry.messenger_secret AS s SET expires_at = least(coalesce(s.expires_at, 'infinity'), now() + overlap)
         WHERE s.messenger_id = asked.messenger_id AND s.kind = 'hmac_sha256' AND (s.expires_at IS NULL OR s.expires_at > now());
        INSERT INTO registry.messenger_secret (messenger_id, kind, ciphertext, to_public)
        VALUES (asked.messenger_id, 'hmac_sha256', asked.ciphertext, true);
    END IF;
    UPDATE registry.change_request AS r SET outcome = verdict, decided_at = now(), decided_by = coalesce(who, session_user), reason = why, ciphertext = NULL
     WHERE r.change_id = change;
    RETURN 'decided';
END
$$;
COMMENT ON FUNCTION registry.decide_change IS 'A person confirms or refuses a request, which is then carried out: another endpoint, or another signing secret beside the former ones, which end after the overlap. Returns decided; or changes nothing and returns why: unknown, confirmed, refused, superseded, expired, revoked (the key that asked is, so a thief may have asked), or stale (its secret is sealed to a former secrets-key).';
