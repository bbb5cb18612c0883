-- Per device what stops models there, or leaves the device: an operator, else the words of the error.
--
-- What stops the most families comes first: that is what a vendor would implement first.
WITH errors AS (
    SELECT
        device,
        family,
        'stops' AS effect,
        coalesce(expectation_cause, 'open') AS cause,
        reason,
        regexp_extract(
            reason,
            '((?:aten|prims?|torchvision)(?:::|\.)\w+(?:\.\w+)?)|"(\w+)" not implemented|[Uu]nsupported op(?:erator|set)?:? ([A-Z]\w+)',
            ['torch', 'kernel', 'graph']
        ) AS found
    FROM open_checks
    WHERE status IN ('error', 'crash', 'timeout') AND verdict NOT IN ('mock', 'skip')
),
named AS (
    SELECT
        device,
        family,
        effect,
        cause,
        coalesce(
            nullif(found.torch, ''), nullif(found.kernel, ''), nullif(found.graph, '')
        ) AS operator,
        regexp_replace(split_part(trim(reason), chr(10), 1), '0x[0-9a-f]+|\d+', 'N', 'g') AS words
    FROM errors
),
elsewhere AS (
    SELECT
        device,
        family,
        'leaves the device' AS effect,
        'device' AS cause,
        unnest(json_extract_string(records.graph, '$.elsewhere[*]')) AS operator,
        NULL AS words
    FROM records JOIN cells USING (run_id, family, device, weights, size, dtype)
    WHERE records.graph IS NOT NULL
)
SELECT
    device,
    effect,
    operator IS NOT NULL AS is_operator,
    coalesce(operator, words) AS what,
    string_agg(DISTINCT cause, ', ' ORDER BY cause) AS causes,
    count(DISTINCT family) AS number,
    string_agg(DISTINCT family, ', ' ORDER BY family) AS families
FROM (SELECT * FROM named UNION ALL SELECT * FROM elsewhere)
GROUP BY ALL
ORDER BY device, is_operator DESC, number DESC, what
