-- A long history in the empty tables of a database, made from the real cells in $cells, which are
-- repeated on $devices (name, how many times slower) for $runs nights. All that varies comes from hashes, so
-- the same call makes the same history.
CREATE TEMP TABLE real_cells AS SELECT unnest($cells, recursive := true);
CREATE TEMP TABLE devices AS SELECT unnest($devices, recursive := true);
CREATE TEMP MACRO uniform(key) AS (hash(key) % 1000003 + 1) / 1000005.0;
CREATE TEMP MACRO normal(key) AS sqrt(-2 * ln(uniform(key || 'r'))) * cos(2 * pi() * uniform(key || 'a'));
CREATE TEMP TABLE nights AS
SELECT
    range AS night,
    TIMESTAMP '2026-01-01 02:00:00' + to_days(range::INTEGER) AS started,
    strftime(TIMESTAMP '2026-01-01 02:00:00' + to_days(range::INTEGER), '%Y%m%dT%H%M%SZ') || '-'
        || substr(md5('night' || range), 1, 6) AS run_id,
    '5.' || (20 + range * 4 // $runs) || '.0' AS transformers
FROM range($runs);

INSERT INTO runs BY NAME
SELECT
    run_id,
    started,
    started + INTERVAL 20 MINUTE AS ended,
    true AS complete,
    false AS interrupted,
    false AS partial,
    (SELECT count(*) FROM real_cells) * (SELECT count(*) FROM devices) AS asked,
    (SELECT count(*) FROM real_cells) * (SELECT count(*) FROM devices) AS finished,
    'bench' AS host,
    [] AS tags,
    {'versions': {'torch': '2.14.1', 'transformers': transformers}}::JSON AS manifest
FROM nights;

-- On the last device a twentieth of the families is not measured: it is to be estimated.
CREATE TEMP TABLE replayed AS
SELECT
    run_id,
    night,
    started,
    transformers,
    real_cells.* EXCLUDE (verdict, status),
    -- A flip: one family in 97 fails on one device since the last night but one.
    CASE WHEN night >= $runs - 2 AND hash(family || device) % 97 = 0 THEN 'unexpected' ELSE verdict END AS verdict,
    CASE WHEN night >= $runs - 2 AND hash(family || device) % 97 = 0 THEN 'fail' ELSE status END AS status,
    device,
    'random' AS weights,
    'tiny' AS size,
    'float32' AS dtype,
    -- The machine of the night, the call, and a step of 15 % in one family of 89.
    latency * slower * exp(0.3 * normal(family || device) + 0.05 * normal(device || night)
        + 0.02 * normal(family || device || night))
        * CASE WHEN night >= $runs * 3 // 4 AND hash(family || device) % 89 = 0 THEN 1.15 ELSE 1 END AS middle,
    memory * exp(0.004 * normal(family || device || night || 'm')) AS bytes
FROM real_cells CROSS JOIN devices CROSS JOIN nights
WHERE device <> (SELECT max(device) FROM devices) OR hash(family) % 20 <> 0;

INSERT INTO jobs BY NAME
SELECT run_id, family, architecture, model_class, device, weights, size, dtype, run_id || '/' || family || '.json' AS path
FROM replayed;

INSERT INTO records BY NAME
SELECT
    run_id,
    family,
    architecture,
    model_class,
    checkpoint,
    device,
    device AS device_observed,
    CASE device WHEN 'cpu' THEN 'EPYC 9654' ELSE upper(device) || ' 1' END AS device_name,
    CASE device WHEN 'cuda' THEN CASE WHEN night >= $runs // 2 THEN '570.1' ELSE '565.9' END END AS driver,
    false AS software,
    [] AS features,
    64 * 2 ** 30 AS memory_bytes,
    'real' AS inference,
    [] AS missing,
    weights,
    size,
    dtype,
    0 AS seed,
    script AS script_name,
    md5(family) AS script_sha256,
    'python fixed_tests/' || script || ' --device ' || device AS command,
    0 AS exit_code,
    'warm' AS runner,
    'node' || (1 + hash(family || device) % 4) AS node,
    1 AS attempt,
    CASE WHEN uniform(family || device || night || 'retry') > 0.998 THEN 1 ELSE 0 END AS retries,
    status,
    verdict,
    coalesce(seconds, 1) AS seconds,
    coalesce(seconds, 1) AS wall_seconds,
    coalesce(seconds, 1) AS cpu_seconds,
    records_start.start AS started,
    [middle * 0.97, middle * 0.99, middle, middle * 1.02, middle * 1.1] AS latency_seconds,
    bytes AS peak_memory_bytes,
    parameters,
    '3.11.7' AS python,
    'Linux-6.1' AS platform,
    2 AS threads,
    {'torch': '2.14.1', 'transformers': transformers}::JSON AS packages,
    run_id || '/' || family || '.json' AS path,
    run_id || '/logs/' || family || '.txt' AS log
FROM replayed
JOIN (
    SELECT
        family,
        device,
        run_id,
        started + to_milliseconds(CAST(1000 * (sum(coalesce(seconds, 1)) OVER (
            PARTITION BY run_id, hash(family || device) % 4 ORDER BY family, device
        ) - coalesce(seconds, 1)) AS INTEGER)) AS start
    FROM replayed
) AS records_start USING (family, device, run_id);

INSERT INTO checks BY NAME
SELECT
    run_id, family, device, weights, size, dtype,
    generate_subscripts(names, 1) - 1 AS position,
    unnest(names) AS name,
    CASE WHEN position = 0 AND status = 'fail' THEN 'fail' ELSE 'pass' END AS status,
    CASE WHEN position = 0 AND status = 'fail' THEN 'off by 3e-3' END AS reason,
    1e-7 AS value,
    1e-6 AS bound,
    0.1 AS seconds,
    NOT (position = 0 AND status = 'fail' AND verdict = 'unexpected') AS expected
FROM replayed
