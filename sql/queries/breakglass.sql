-- Break-glass, run by persons under their own roles: what each step means stands in sql/code/breakglass.sql.

-- name: request_look
SELECT breakglass.request($1, $2) AS request;

-- name: request_reinstate
-- Why: the numbers of a file travel as one parameter, which stands in no statement's text.
SELECT breakglass.request_reinstate($1, $2, $3, $4::text[], $5, $6::bigint[]) AS request;

-- name: request_withdraw
SELECT breakglass.request_withdraw($1, $2, $3, $4::uuid[], $5) AS request;

-- name: approve_request
SELECT breakglass.approve($1) AS ends_at;

-- name: list_requests
SELECT r.request, r.kind, r.requested_at, r.requested_by, r.number, r.scope, r.reason, r.is_prepared, r.approved_by, r.ends_at
  FROM breakglass.open_requests() AS r;

-- name: use_approval
-- Why: the one way to an unmasked number; it is logged before it answers.
SELECT l.kind, l.began_at, l.ended_at, l.generation, l.messenger, l.detail, l.outcome FROM breakglass.look($1) AS l;

-- name: reinstate
-- Why: one transaction for all of it, with no bound of time but the person's patience.
SELECT r.what, r.outcome, r.messenger, r.quantity, r.number, r.generation, r.identification_code FROM breakglass.reinstate($1, $2, $3) AS r;

-- name: withdraw
SELECT w.outcome, w.messenger, w.notifications FROM breakglass.withdraw($1, $2) AS w;
