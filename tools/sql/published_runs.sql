-- Every run that can decide a cell, with what is wrong with its files.
SELECT
    run_id,
    strftime(started, '%Y-%m-%d %H:%M UTC') AS started,
    complete,
    interrupted,
    asked,
    finished,
    coalesce(
        (
            SELECT list(path || ': ' || problem || '; ' || replace(mend, '{run}', runs.run_id) ORDER BY path)
            FROM problems
            WHERE problems.run_id = runs.run_id
        ),
        []
    ) AS problems
FROM runs
WHERE NOT partial
ORDER BY run_id
