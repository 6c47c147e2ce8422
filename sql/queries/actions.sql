-- The log of what persons did in the console.

-- name: record_action
-- Why: in the transaction of what it tells of. No row: this confirmation was carried out before, so nothing may be done.
INSERT INTO registry.action (confirmation, person, key_id, kind, messenger_id, what, counted, reason, outcome)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)
    ON CONFLICT (confirmation) DO NOTHING
RETURNING action_id;

-- name: finish_action
-- Why: what takes long is written down before its outcome is known.
UPDATE registry.action AS a SET outcome = $2 WHERE a.action_id = $1 AND a.outcome IS NULL;

-- name: read_actions
-- Why: the console's page, the newest first.
SELECT a.action_id, a.at, a.person, a.key_id, a.kind, m.name AS messenger, a.what, a.counted, a.reason, a.outcome
  FROM registry.action AS a LEFT JOIN registry.messenger AS m ON m.messenger_id = a.messenger_id
 WHERE a.action_id < $1
 ORDER BY a.action_id DESC LIMIT $2;

-- name: find_action
-- Why: the result of a confirmation that was just sent, or sent again.
SELECT a.action_id FROM registry.action AS a WHERE a.confirmation = $1;
