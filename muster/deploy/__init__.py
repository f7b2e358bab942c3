"""Moving a running service from one bundle to another, step by step, with a way back at each.

``windows`` is what replicas measured, ``judge`` what follows from it, ``steps`` which step comes next; all
three are pure. ``replicas`` makes the calls, ``deployer`` drives them, ``command`` is `muster deploy`.
"""
