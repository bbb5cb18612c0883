-- All statuses of real runs, the best first, so that max(status) is the worst.
CREATE TYPE status AS ENUM ('pass', 'skip', 'fail', 'error', 'flaky', 'timeout', 'crash')
