-- One row per valid record.
CREATE TABLE records (
    run_id VARCHAR,
    family VARCHAR,
    architecture VARCHAR,
    model_class VARCHAR,
    checkpoint VARCHAR,
    device VARCHAR, -- as asked for
    device_observed VARCHAR,
    device_name VARCHAR,
    driver VARCHAR,
    software BOOLEAN,
    features VARCHAR[],
    memory_bytes BIGINT,
    inference VARCHAR,
    missing VARCHAR[],
    weights VARCHAR,
    size VARCHAR,
    dtype VARCHAR,
    seed BIGINT,
    script_name VARCHAR,
    script_sha256 VARCHAR,
    command VARCHAR,
    exit_code INTEGER,
    runner VARCHAR, -- warm or fresh
    node VARCHAR, -- the machine that ran it
    attempt INTEGER,
    retries INTEGER, -- of those attempts, how many this run made in vain
    status status, -- the worst of its checks
    verdict VARCHAR, -- pass, expected, unexpected, mock or skip
    seconds DOUBLE, -- as the script measured itself
    wall_seconds DOUBLE, -- of the process, from start to end
    cpu_seconds DOUBLE, -- of the process and what it waited for
    started TIMESTAMP, -- UTC
    load_seconds DOUBLE,
    first_call_seconds DOUBLE,
    latency_seconds DOUBLE[],
    peak_memory_bytes BIGINT,
    parameters BIGINT,
    python VARCHAR,
    platform VARCHAR,
    threads INTEGER,
    packages JSON,
    graph JSON, -- of the exported graph that ran; NULL where torch ran the model
    path VARCHAR, -- in the results folder
    log VARCHAR, -- in the results folder
    PRIMARY KEY (run_id, family, device, weights, size, dtype)
)
