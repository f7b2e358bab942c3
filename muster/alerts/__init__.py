"""What an operations team is called for: one list of rules, for Prometheus and for the evaluator here.

``rules.toml`` is the one source. ``prometheus`` writes it as a rule file of Prometheus; ``expression`` and
``evaluator`` evaluate the same rules from the replicas' own ``/metrics`` where there is no Prometheus;
``sinks`` tells whoever listens.
"""
