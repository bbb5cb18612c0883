-- One row per check of each record, beside the expectation that applies to it.
CREATE TABLE checks (
    run_id VARCHAR,
    family VARCHAR,
    device VARCHAR,
    weights VARCHAR,
    size VARCHAR,
    dtype VARCHAR,
    position INTEGER, -- in the record, from 0
    name VARCHAR,
    status status,
    reason VARCHAR,
    value DOUBLE,
    bound DOUBLE,
    seconds DOUBLE,
    expected BOOLEAN, -- it ended as expected, which without an expectation is pass or skip
    expectation_status status, -- NULL in this and the next columns: no expectation applies
    expectation_reason VARCHAR,
    expectation_cause VARCHAR,
    expectation_where VARCHAR
)
