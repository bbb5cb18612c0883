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
    not_run VARCHAR, -- why it has no record; NULL where it has one
    PRIMARY KEY (run_id, family, device, weights, size, dtype)
)
