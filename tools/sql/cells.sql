-- One row per cell, from the newest run that asked for it with all its checks. A mock, which has no
-- record here, is named only where there is nothing real.
CREATE TABLE cells AS -- not a view: with a long history that would take seconds at each question
WITH newest AS (
    SELECT jobs.*, runs.complete, mocks.reason AS mock
    FROM jobs JOIN runs USING (run_id)
    LEFT JOIN mocks USING (run_id, family, device, weights, size, dtype)
    WHERE NOT runs.partial
    QUALIFY row_number() OVER (
        PARTITION BY family, device, weights, size, dtype ORDER BY mock IS NOT NULL, run_id DESC
    ) = 1
),
counted AS (
    SELECT
        run_id, family, device, weights, size, dtype,
        count(*) FILTER (status = 'pass') AS passed,
        count(*) FILTER (status IN ('fail', 'error', 'flaky', 'timeout', 'crash')) AS failed,
        count(*) AS total,
        first(
            coalesce(reason, name || ' passes, but is expected to end with ' || expectation_status)
            ORDER BY expected, status DESC, position
        ) FILTER (status <> 'pass' OR NOT expected) AS first_reason
    FROM checks SEMI JOIN newest USING (run_id, family, device, weights, size, dtype)
    GROUP BY ALL
)
SELECT
    newest.family,
    newest.device,
    newest.weights,
    newest.size,
    newest.dtype,
    coalesce(records.architecture, newest.architecture) AS architecture,
    coalesce(records.model_class, newest.model_class) AS model_class,
    newest.run_id,
    coalesce(records.status::VARCHAR, if(mock IS NULL, 'not run', 'mock')) AS status,
    coalesce(records.verdict, if(mock IS NULL, 'not run', 'mock')) AS verdict,
    coalesce(passed, 0) AS passed,
    coalesce(failed, 0) AS failed,
    coalesce(total, 0) AS total,
    coalesce(first_reason, mock, problems.problem, newest.not_run) AS first_reason,
    coalesce(records.inference, if(mock IS NULL, NULL, 'mock')) AS inference,
    records.device_name,
    records.software,
    list_aggregate(records.hardware_seconds, 'median') AS latency_median,
    list_aggregate(records.hardware_seconds, 'min') AS latency_low,
    list_aggregate(records.hardware_seconds, 'max') AS latency_high,
    records.peak_memory_bytes,
    records.parameters,
    records.seconds,
    newest.complete
FROM newest
-- What a software adapter takes says nothing of a device, so no table has it.
LEFT JOIN (
    SELECT *, if(software, NULL, latency_seconds) AS hardware_seconds FROM records
) AS records USING (run_id, family, device, weights, size, dtype)
LEFT JOIN counted USING (run_id, family, device, weights, size, dtype)
LEFT JOIN problems ON problems.run_id = newest.run_id AND problems.path = newest.path
