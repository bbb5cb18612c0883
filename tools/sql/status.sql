-- All statuses, the best first, so that max(status) is the worst.
CREATE TYPE status AS ENUM ('pass', 'skip', 'mock', 'fail', 'error', 'flaky', 'timeout', 'crash')
