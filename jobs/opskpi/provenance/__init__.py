"""The audit observer: reads SLSA provenance as it is found in the wild, checks what it states, and keeps the result.

What is read was written by strangers. `strict_json` bounds and refuses, `envelopes` and `statements` say what is well
formed, `checks` compares with what was expected, `signatures` asks sigstore, `auditing` makes one verdict of it all.
"""
