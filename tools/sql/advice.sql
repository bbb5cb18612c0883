-- Per family and setting: the best device by latency and by memory, and those not to trust.
--
-- Only real runs on hardware in which nothing fails are compared, and only where two or more devices
-- were measured. A device whose numbers are wrong is not to be trusted, however fast it is.
WITH wrong AS (
    SELECT
        run_id, family, device, weights, size, dtype,
        string_agg(name, ', ' ORDER BY position) AS checks
    FROM checks
    WHERE status = 'fail' AND name IN ('device_parity', 'dtype_bf16', 'determinism', 'cache', 'chunked_prefill')
    GROUP BY ALL
),
measured AS (
    SELECT
        cells.*,
        wrong.checks AS wrong,
        failed = 0 AND NOT coalesce(software, false) AS sound
    FROM cells LEFT JOIN wrong USING (run_id, family, device, weights, size, dtype)
    WHERE inference = 'real' AND verdict NOT IN ('mock', 'skip', 'not run')
)
SELECT
    architecture,
    family,
    weights,
    size,
    dtype,
    count(*) AS measured,
    count(*) FILTER (sound) AS sound,
    coalesce(list(device ORDER BY device) FILTER (sound), []) AS sound_devices,
    first(device ORDER BY latency_median, device)
        FILTER (sound AND latency_median IS NOT NULL) AS fastest,
    min(latency_median) FILTER (sound) AS latency_median, -- seconds
    first(device ORDER BY peak_memory_bytes, device)
        FILTER (sound AND peak_memory_bytes IS NOT NULL) AS smallest,
    min(peak_memory_bytes) FILTER (sound) AS peak_memory_bytes,
    string_agg(device || ' (' || wrong || ')', '; ' ORDER BY device) FILTER (wrong IS NOT NULL)
        AS untrusted
FROM measured
GROUP BY ALL
ORDER BY weights DESC, size DESC, dtype DESC, architecture, family
