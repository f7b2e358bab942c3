"""Live bundles: a second bundle is loaded beside the serving one, tried out, promoted or rolled back.

``held`` is one bundle with all that serves it, ``bundles`` the bundles of a replica and how they change
places, ``shelf`` where copies of them lie, ``deploys`` what the log says of the service's way from one to the
next.
"""
