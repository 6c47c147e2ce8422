-- Break-glass, run by persons under their own roles: what each step means stands in sql/code/breakglass.sql.

-- name: request_look
SELECT breakglass.request($1, $2) AS request;

-- name: approve_request
SELECT breakglass.approve($1) AS ends_at;

-- name: list_requests
SELECT r.request, r.requested_at, r.requested_by, r.number, r.reason, r.is_prepared, r.approved_by, r.ends_at FROM breakglass.open_requests() AS r;

-- name: use_approval
-- Why: the one way to an unmasked number; it is logged before it answers.
SELECT l.kind, l.began_at, l.ended_at, l.generation, l.messenger, l.detail, l.outcome FROM breakglass.look($1) AS l;
