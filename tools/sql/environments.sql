-- What the records named in $keys (run_id and what identifies a cell) ran on.
SELECT
    run_id,
    family,
    device,
    weights,
    size,
    dtype,
    device_name,
    driver,
    node,
    runner,
    threads,
    python,
    platform,
    script_sha256,
    packages
FROM records
SEMI JOIN (SELECT unnest($keys, recursive := true)) USING (run_id, family, device, weights, size, dtype)
