-- One row per run folder. A folder whose manifest cannot be read has only its run_id.
CREATE TABLE runs (
    run_id VARCHAR PRIMARY KEY,
    started TIMESTAMP, -- UTC
    ended TIMESTAMP, -- UTC; NULL: the run died or still runs
    complete BOOLEAN NOT NULL, -- ended by itself, with a valid record for every job
    interrupted BOOLEAN NOT NULL,
    partial BOOLEAN NOT NULL, -- asked for some checks only, so that it never decides a cell
    asked INTEGER NOT NULL,
    finished INTEGER NOT NULL, -- jobs with a valid record
    host VARCHAR,
    tags VARCHAR[] NOT NULL, -- given by `nox -s history`
    manifest JSON
)
