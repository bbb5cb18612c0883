-- Every check of the current cells, passing ones included, in the order of the scripts.
SELECT
    checks.family,
    checks.device,
    checks.weights,
    checks.size,
    checks.dtype,
    checks.name,
    checks.status::VARCHAR AS status,
    checks.reason,
    checks.value,
    checks.bound,
    checks.seconds,
    checks.expected,
    checks.expectation_reason,
    checks.expectation_cause,
    checks.expectation_where
FROM checks
SEMI JOIN cells USING (run_id, family, device, weights, size, dtype)
ORDER BY checks.position
