"""Events, KPIs, audits and SLOs as files: what there is to export, in which formats, and how it is written."""
