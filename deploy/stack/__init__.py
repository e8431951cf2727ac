"""The local stack: Kafka, a schema registry, PostgreSQL, the sandbox providers and every Newswire process, under supervision.

`python -m deploy.stack up|down|status|logs|clean|stop|start|restart|env|run`; the Makefile's targets call it. All state
is in one folder, the home (`.newswire` by default); downloads are shared by all homes in the user's cache folder.
"""
