CREATE OR REPLACE VIEW report.change_request AS
SELECT c.change_id, c.messenger, c.kind, c.state, substring(c.endpoint_url FROM '^https?://[^/?]+') AS endpoint,
       substring(c.present_url FROM '^https?://[^/?]+') AS present_endpoint,
       c.requested_at, c.requested_by, c.expires_at, c.decided_at, c.decided_by,
       registry.without_numbers(c.reason) AS reason,
       w.waited, extract(epoch FROM w.waited)::float8 AS waited_seconds
  FROM registry.change AS c, LATERAL (SELECT CASE WHEN c.state = 'waiting' THEN now() - c.requested_at END) AS w(waited);
COMMENT ON VIEW report.change_request IS 'What messengers asked to change, their endpoint or their signing secret, and what a person decided (registryd messenger changes).';
COMMENT ON COLUMN report.change_request.change_id IS 'The request''s number.';
COMMENT ON COLUMN report.change_request.messenger IS 'Who asks.';
COMMENT ON COLUMN report.change_request.kind IS 'endpoint or webhook_secret.';
COMMENT ON COLUMN report.change_request.state IS 'waiting, confirmed, refused, superseded (by a later request of its kind) or expired.';
COMMENT ON COLUMN report.change_request.endpoint IS 'Scheme and host of the endpoint that it wants, because a path may hold a secret.';
COMMENT ON COLUMN report.change_request.present_endpoint IS 'Scheme and host of the endpoint that it has now.';
COMMENT ON COLUMN report.change_request.requested_at IS 'When it asked.';
COMMENT ON COLUMN report.change_request.requested_by IS 'The id of the key that asked.';
COMMENT ON COLUMN report.change_request.expires_at IS 'From when on nobody can confirm it.';
COMMENT ON COLUMN report.change_request.decided_at IS 'When it was decided.';
COMMENT ON COLUMN report.change_request.decided_by IS 'A database user, the name of an operator key, or messenger.';
COMMENT ON COLUMN report.change_request.reason IS 'Why it was refused. Digits that might be a number are a star.';
COMMENT ON COLUMN report.change_request.waited IS 'Since it was asked, while it waits.';
COMMENT ON COLUMN report.change_request.waited_seconds IS 'The same in seconds.';
