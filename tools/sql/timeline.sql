-- When and where each job of the run $run_id ran; lost attempts before it are in `retries`.
SELECT
    family,
    device,
    weights,
    size,
    dtype,
    coalesce(node, host) AS node,
    runner,
    status::VARCHAR AS status,
    verdict,
    attempt,
    retries,
    date_diff('millisecond', min(records.started) OVER (), records.started) / 1000 AS start, -- seconds
    wall_seconds,
    cpu_seconds
FROM records
JOIN runs USING (run_id)
WHERE run_id = $run_id
ORDER BY records.started, family, device
