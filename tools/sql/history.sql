-- What each cell was in all runs that can decide one, the oldest first; runs are numbers of all_runs.
SELECT
    family,
    device,
    weights,
    size,
    dtype,
    list(number ORDER BY number) AS runs,
    list(verdict ORDER BY number) AS verdicts,
    list(list_aggregate(latency_seconds, 'median') ORDER BY number) AS latencies, -- seconds
    list(peak_memory_bytes ORDER BY number) AS memories -- bytes
FROM records
JOIN (SELECT run_id, row_number() OVER (ORDER BY run_id) - 1 AS number FROM runs) USING (run_id)
JOIN runs USING (run_id)
WHERE NOT runs.partial AND inference = 'real' AND verdict <> 'skip'
GROUP BY ALL
ORDER BY ALL
