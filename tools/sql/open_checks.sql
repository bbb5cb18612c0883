-- Every check of the current cells that does not pass, or passes unexpectedly.
CREATE VIEW open_checks AS
SELECT
    checks.*,
    cells.architecture,
    cells.model_class,
    cells.verdict
FROM checks
JOIN cells USING (run_id, family, device, weights, size, dtype)
WHERE checks.status <> 'pass' OR NOT checks.expected
