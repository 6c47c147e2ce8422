-- Break-glass, the daemon's part: it adds a number's digests to each request (sql/code/breakglass.sql).

-- name: find_requests_to_prepare
SELECT r.request, r.msisdn FROM registry.requests_to_prepare() AS r;

-- name: prepare_request
SELECT registry.prepare_request($1, $2, $3) AS sequence;
