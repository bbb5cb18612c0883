-- One cell in all runs that can decide it, the oldest first.
SELECT
    run_id,
    strftime(runs.started, '%Y-%m-%d %H:%M UTC') AS started,
    verdict,
    list_aggregate(latency_seconds, 'median') AS latency, -- seconds
    list_aggregate(latency_seconds, 'min') AS latency_low,
    list_aggregate(latency_seconds, 'max') AS latency_high,
    peak_memory_bytes
FROM records
JOIN runs USING (run_id)
WHERE NOT runs.partial AND inference = 'real' AND verdict <> 'skip'
    AND family = $family AND device = $device AND weights = $weights AND size = $size AND dtype = $dtype
ORDER BY run_id
