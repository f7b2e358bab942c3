"""`muster console`: a page to search, watch and drill, over the client alone.

The pages are built with NiceGUI (extra `console`), which serves all of its assets itself. Nothing here
imports another room: drills run as processes of their own, and what the records say is read by modules that
are looked up by name.
"""
