"""SLOs and alerts as OpenSLO v1 YAML, read and written.

`read` gives `Definitions` or one message for every fault; `write` is its reverse and `as_json`/`from_json` turn
definitions into rows and back. What OpenSLO leaves open is chosen here; any other key, kind or annotation is refused.

An SLI counts stored events of one type. `metricSource.type` is `opskpi`, and total with good or bad is one of

==============  ==================  ========================================  =========================================
objective       total               good                                      bad
==============  ==================  ========================================  =========================================
error_rate      {count: attempts}   {count: succeeded}                        {count: failed}
latency         {count: succeeded}  {count: succeeded, fasterThanMs: 300000}  {count: succeeded, atLeastMs: 300000}
availability    {count: units}      {count: units, succeeded: true}           {count: units, succeeded: false}
events          {count: events}     {count: events, labels: {…}}              {count: events, labels: {…}}
measured        {count: measured}   {count: measured, atMost: 1000}           {count: measured, moreThan: 1000}
==============  ==================  ========================================  =========================================

each with `eventType: X`, and with `labels: {key: value}` or `{key: [value, value]}` that the events must have. Good and
bad are parts of total: their labels narrow those of total further. Of units of work all have the labels of total.
`groupBy: [key]`, with one or two keys of labels, at total makes each value (or pair of values) an objective by itself.

An SLO has a rolling window or a calendar day, week, month, quarter or year (1d, 1w, 1M, 1Q, 1Y). Each of several
objectives is an SLO of its own, `<slo>.<objective>`. Each policy that is listed, by name or inline, becomes the rule
`<slo>/<policy>`. `alertWhenResolved` left out means true, and no `notificationTargets` mean every target that takes
the severity. Severities are page, ticket and notice.

Annotations, all with the prefix `opskpi.dev/`:

==========================  =======================  ==================================================================
on                          annotation               meaning
==========================  =======================  ==================================================================
SLO                         expected-every           how often events are expected, such as 1h
SLO                         min-failures             how many bad events it takes to alert on a burn rate while one
                                                     alone exceeds the budget, such as "5"; else the setting
SLO                         previous-name            what it was called before: its history goes along, once
SLO                         enabled                  "false": it has no status and no alerts; "true" ends that;
                                                     without the annotation it stays as it is
AlertPolicy                 applies-to               every-slo: a rule of burn_rate, budget_exhausted or silent_input
AlertCondition              kind                     burn_rate (without it), budget_exhausted, kpi_threshold,
                                                     silent_agents, silent_input, silent_jobs
AlertCondition, burn_rate   short-window             the second window, which must burn too
AlertCondition, burn_rate   budget-share             the share of the budget that lookbackWindow may consume; then
                                                     threshold is share x SLO window / lookbackWindow, to six digits,
                                                     checked for the rolling windows of the SLOs that list the policy
AlertCondition              metric                   kpi_threshold: the KPI
AlertCondition              event-type               silent_input: of these events instead of SLOs
AlertNotificationTarget     secret-env               environment variable with the address or password
AlertNotificationTarget     severities               those it takes, separated by commas; else all
AlertNotificationTarget     repeat-interval          how often a message is repeated; else 4h
AlertNotificationTarget     further ones             the SETTINGS of its kind in alerting/channels
==========================  =======================  ==================================================================

In a condition, `kind` is burnrate, OpenSLO's only one, whatever our annotation says. The rest of it says when it fires:

==================  =====================  ==============================  ============================================
kind                op                     threshold                       lookbackWindow
==================  =====================  ==============================  ============================================
burn_rate           gt                     the factor                      the long window, a multiple of 5m
budget_exhausted    gt                     1, the whole budget             any; the window is that of the SLO
kpi_threshold       gt, gte, lt or lte     a number                        how long it lasts, a multiple of 1h
silent_*            lte                    0                               how long nothing came; silent_jobs, and
                                                                           silent_input of SLOs, may leave it out
==================  =====================  ==============================  ============================================

Titles and descriptions of SLIs, objectives and conditions are kept in the
annotations of their SLO or rule (`opskpi.dev/indicator-description`) and written back to where they came from.
"""

from opskpi.openslo.definitions import Channel, Definitions, Rule, Service, Slo, as_json, from_json
from opskpi.openslo.reading import read
from opskpi.openslo.writing import write

__all__ = ["Channel", "Definitions", "Rule", "Service", "Slo", "as_json", "from_json", "read", "write"]
