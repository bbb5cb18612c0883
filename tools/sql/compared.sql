-- The cells of the runs $before and $after side by side; NULL where one has no record.
SELECT
    family,
    device,
    weights,
    size,
    dtype,
    a.verdict AS verdict_before,
    b.verdict AS verdict_after,
    list_aggregate(a.latency_seconds, 'median') AS latency_before, -- seconds
    list_aggregate(b.latency_seconds, 'median') AS latency_after,
    a.peak_memory_bytes AS memory_before,
    b.peak_memory_bytes AS memory_after
FROM (SELECT * FROM records WHERE run_id = $before) AS a
FULL JOIN (SELECT * FROM records WHERE run_id = $after) AS b USING (family, device, weights, size, dtype)
ORDER BY family, device, weights, size, dtype
