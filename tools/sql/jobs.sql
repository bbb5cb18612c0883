-- What the runs asked for.
CREATE TABLE jobs (
    run_id VARCHAR,
    family VARCHAR,
    architecture VARCHAR,
    model_class VARCHAR,
    device VARCHAR,
    weights VARCHAR,
    size VARCHAR,
    dtype VARCHAR,
    path VARCHAR, -- of the record, in the results folder
    PRIMARY KEY (run_id, family, device, weights, size, dtype)
)
