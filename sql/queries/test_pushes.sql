-- Test pushes: asked -> claimed -> ended. Who asks waits for the row; only a deliver process dials an endpoint.

-- name: give_up_tests
-- Why: a test that no process has ended in time must not bar the next one.
UPDATE registry.test_push AS t SET ended_at = now(), delivered = false, error = 'not done in time'
 WHERE t.messenger_id = $1 AND t.ended_at IS NULL AND t.asked_at < now() - interval '20 seconds';

-- name: ask_test
-- Why: one at a time for a messenger (the index test_push_open), and so many a minute; no row: not now.
WITH asked AS (
    INSERT INTO registry.test_push (messenger_id, endpoint_url)
    SELECT $1, $3 WHERE (SELECT count(*) FROM registry.test_push AS t WHERE t.messenger_id = $1 AND t.asked_at > now() - interval '1 minute') < $2
        ON CONFLICT DO NOTHING
    RETURNING test_id
)
SELECT a.test_id FROM asked AS a, pg_notify('registry_deliver', 'test');

-- name: find_test
SELECT t.delivered, t.http_status, t.latency_ms, t.error FROM registry.test_push AS t WHERE t.test_id = $1;

-- name: claim_tests
-- Why: each is pushed once. What was asked too long ago has nobody waiting for it any more.
UPDATE registry.test_push AS t SET claimed_at = now()
  FROM registry.messenger AS m
 WHERE m.messenger_id = t.messenger_id
   AND t.test_id IN (SELECT due.test_id FROM registry.test_push AS due
                      WHERE due.ended_at IS NULL AND due.claimed_at IS NULL AND due.asked_at > now() - interval '15 seconds'
                      ORDER BY due.test_id LIMIT 100 FOR UPDATE SKIP LOCKED)
RETURNING t.test_id, t.messenger_id, m.name, coalesce(t.endpoint_url, m.endpoint_url, '') AS endpoint_url, t.endpoint_url IS NOT NULL AS elsewhere;

-- name: end_test
UPDATE registry.test_push AS t SET ended_at = now(), delivered = $2, http_status = $3, latency_ms = $4, error = $5
 WHERE t.test_id = $1 AND t.ended_at IS NULL;

-- name: forget_tests
DELETE FROM registry.test_push AS t WHERE t.asked_at < now() - interval '1 day';
