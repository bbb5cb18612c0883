-- One row per record of a stand-in: kept apart from records and checks, which are of real runs.
CREATE TABLE mocks (
    run_id VARCHAR,
    family VARCHAR,
    device VARCHAR,
    weights VARCHAR,
    size VARCHAR,
    dtype VARCHAR,
    missing VARCHAR[], -- packages
    reason VARCHAR, -- why nothing real could run
    PRIMARY KEY (run_id, family, device, weights, size, dtype)
)
