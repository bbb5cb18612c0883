-- Every run, the oldest first, with how its cells were judged.
SELECT
    runs.run_id,
    strftime(started, '%Y-%m-%d %H:%M UTC') AS started,
    date_diff('second', started, ended) AS seconds,
    complete,
    interrupted,
    partial,
    asked,
    finished,
    host,
    tags,
    CAST(manifest->'versions' AS VARCHAR) AS versions,
    coalesce(found.devices, []) AS devices,
    coalesce(found.verdicts, MAP {}) AS verdicts
FROM runs
LEFT JOIN (
    SELECT
        run_id,
        list_sort(list(DISTINCT device)) AS devices,
        histogram(verdict) AS verdicts
    FROM records
    GROUP BY run_id
) AS found USING (run_id)
ORDER BY run_id
